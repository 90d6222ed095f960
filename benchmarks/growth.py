"""How time and memory grow with ranks, layers and checks: a process for each size, and its CPU seconds.

python benchmarks/growth.py checks 10000 100000 1000000     JUnit files of so many testcases, gate and page
python benchmarks/growth.py merge 64 256 1024                reports of so many ranks, made up, put together and judged
python benchmarks/growth.py ranks 1 2 4 8 16 32              `run` of tiny in fp64 under data parallelism of so many ranks
python benchmarks/growth.py layers 4 16 61                   `run` of tiny in fp64 with so many layers, on one rank

The last column is the time a unit takes, over that of the first size: 1 is linear. A run is measured three times for its parts:
what the reference takes, the start of the ranks with their weights, and the comparison. `--record FILE` keeps the figures as
JSON, from which docs/pictures/growth.py draws.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Spent:
    """What a process and its children took: CPU seconds, and MiB of the largest of them."""

    seconds: float
    peak: int
    size: int = 0


def main(words: Sequence[str]) -> int:
    """Measure each size, and print a table."""
    record = Path(words[words.index("--record") + 1]) if "--record" in words else None
    what, *sizes = words[: words.index("--record")] if record else words
    first: dict[str, float] = {}
    print(f"{what:>10}  {'CPU s':>8}  {'peak MiB':>8}  {'MB':>6}  time a unit, over the first")
    for count in map(int, sizes):
        for name, spent in _MEASURES[what](count):
            each = spent.seconds / count
            ratio = each / first.setdefault(name, each)
            if record:
                _keep(record, {"what": what, "size": count, "part": name, **_figures(spent)})
            print(
                f"{count:>10}  {spent.seconds:8.1f}  {spent.peak:8}  {spent.size / 1e6:6.1f}  {ratio:.2f}  {name}", flush=True
            )
    return 0


def _figures(spent: Spent) -> dict[str, Any]:
    return {"seconds": round(spent.seconds, 1), "peak": spent.peak, "bytes": spent.size}


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Put it into the file, in the place of what was measured of the same before."""
    kept = json.loads(path.read_text()) if path.exists() else []
    key = ("what", "size", "part")
    kept = [one for one in kept if any(one[name] != found[name] for name in key)]
    rows = sorted([*kept, found], key=lambda one: (one["what"], one["part"], one["size"]))
    path.write_text("[\n" + ",\n".join(f" {json.dumps(one)}" for one in rows) + "\n]\n")


def _spent(words: Sequence[str], **changes: str) -> Spent:
    """What a command of ours takes. Raises CalledProcessError if it fails."""
    # Ranks outlive the command that started them: they are taken in, so that what they used is counted.
    code = (
        "import ctypes, json, os, resource, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1)\n"  # PR_SET_CHILD_SUBREAPER
        "done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)\n"
        "try:\n"
        "    while os.wait(): pass\n"
        "except ChildProcessError: pass\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss >> 10]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    returned, seconds, peak = json.loads(done.stdout.splitlines()[-1])
    if returned:
        raise subprocess.CalledProcessError(returned, list(words), done.stdout, done.stderr)
    return Spent(seconds, peak)


def checks(count: int) -> Iterator[tuple[str, Spent]]:
    """Made-up files of green checks, written and read, and the gate and the page over them."""
    with tempfile.TemporaryDirectory(prefix="plumbline-growth-") as name:
        folder = Path(name)
        yield "JUnit written", _spent([__file__, "--results", name, str(count)])
        size = sum(path.stat().st_size for path in (folder / "results").iterdir())
        yield "JUnit read", replace(_spent([__file__, "--read", name]), size=size)
        given = ["--manifest", str(folder / "manifest.json"), "--results", str(folder / "results"), "--commit", "a" * 40]
        yield "gate", _spent(["-m", "ci", "gate", *given])
        page = folder / "page.html"
        yield "page", replace(_spent(["-m", "ci", "page", *given, "--output", str(page)]), size=page.stat().st_size)


def _write_results(count: int, folder: Path) -> None:
    from ci import junit
    from ci.expected import Manifest, save
    from tests.ci.green import EXPECTED, NUMBERS, SUITE

    (folder / "results").mkdir()
    about = {
        **NUMBERS,
        "max_diff": "1.2e-15",
        "avg_diff": "3.4e-17",
        "worst_index": "(0, 17, 14)",
        "elements": "2304",
        "worst_rank": "1",
    }
    line = "PASS: {} - Max diff: 1.20e-15, Avg diff: 3.40e-17 (relative 2.5e-15)\n"
    whole = [
        SUITE.checks[0],
        *(
            replace(
                SUITE.checks[1],
                component=component,
                name=name,
                details=line.format(name),
                properties={**about, "rel_error": f"{1 + number % 97 / 10:.1f}e-15"},
            )
            for number, (component, name) in enumerate(_titles())
        ),
    ]
    expected = []
    for index in range(-(-count // len(whole))):
        found = tuple(whole[: count - index * len(whole)])
        title, layout = f"tiny-tp{index + 2}-fp64-local-gloo", {"layout": f"tp{index + 2}", "arrangement": f"tp{index + 2}"}
        junit.write(
            folder / "results" / f"{title}.xml",
            replace(SUITE, name=title, checks=found, properties={**SUITE.properties, **layout}),
        )
        wanted = tuple((check.component, check.name) for check in found)
        expected.append(
            replace(
                EXPECTED,
                file=f"{title}.xml",
                name=title,
                checks=wanted,
                excuses=(),
                properties={**EXPECTED.properties, **layout},
            )
        )
    save(folder / "manifest.json", Manifest(tuple(expected), "a" * 40, "false"))


def _read_results(folder: Path) -> None:
    """As the gate reads them: one after the other."""
    from ci import junit

    for path in sorted((folder / "results").iterdir()):
        junit.read(path)


def _titles() -> list[tuple[str, str]]:
    """Component and title of the checks of DeepSeek-V3's 61 layers, but for those of a run as a whole."""
    from tests.ci.runs import case, titles

    one = case("single")
    model = replace(one.model, num_hidden_layers=61, first_k_dense_replace=3)
    training = replace(one.training, steps=0)
    return list(titles(replace(one, model=model, training=training)))


def merge(ranks: int) -> Iterator[tuple[str, Spent]]:
    """Reports of so many ranks, read, merged and judged, in a process of its own; 16 pipeline stages."""
    with tempfile.TemporaryDirectory(prefix="plumbline-growth-") as name:
        subprocess.run(
            [sys.executable, __file__, "--reports", name, str(ranks)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        size = sum(path.stat().st_size for path in Path(name).iterdir())
        yield "merge", replace(_spent([__file__, "--merge", name, str(ranks)]), size=size)


def _case(ranks: int) -> Any:
    """DeepSeek-V3's layers and experts under pp16 and as many expert ranks as there are, at tiny's widths."""
    from validation.case.case import Case
    from validation.case.layout import Layout
    from validation.case.preset import TINY

    spread = ranks // 16
    model = replace(TINY.model, num_hidden_layers=64, first_k_dense_replace=3, n_routed_experts=256)
    layout = Layout(pp=16, ep=min(spread, 64), dp=spread)
    return Case("tiny", model, layout, "fp64", "local", "gloo", 1234, 2 * spread, 1, 48)


def _report(case: Any, rank: int) -> dict[str, Any]:
    """What one rank would leave: its stage's probes and gradients, its slices of weights, each with a difference."""
    from validation.case.parameters import EXPERTS, parameters
    from validation.case.probes import probes

    each, spread = case.model.num_hidden_layers // 16, case.layout.data_parallel
    stage, place = divmod(rank, spread)
    mine = range(stage * each, (stage + 1) * each)
    found: dict[str, list[Any]] = {}
    for probe in probes(case.model, case.batch_size, case.seq_length).values():
        if probe.layer in mine:
            boxes = [[[2 * place + n, 2 * place + n + 1], *([0, size] for size in probe.shape[1:])] for n in range(2)]
            for kind in ("", "probe_gradients/"):
                found[kind + probe.name] = [_piece(box) for box in boxes]
    for one in parameters(case.model).values():
        if one.layer in mine:
            box = [[0, size] for size in one.shape]
            if EXPERTS in one.name:
                some = case.model.n_routed_experts // case.layout.ep
                box[0] = [place % case.layout.ep * some, (place % case.layout.ep + 1) * some]
            for kind in ("weights/", "unreduced/", "gradients/"):
                found[kind + one.name] = [_piece(box)]
    return {
        "pieces": found,
        "problems": {},
        "notes": {},
        "place": {"tp": 0, "pp": stage, "dp": place},
        "memory": {},
        "settings": {},
    }


def _piece(box: list[list[int]]) -> list[Any]:
    numbers = [2304, 2049, 2.6645352591003757e-15, [start for start, _ in box], 9.455193789378868e-13, 6.538832698542297e-28]
    return [box, [*numbers, 2318.607219646131, 2318.607219646131, 0, 0], "cd5daece0b69da99"]


def _judge(folder: Path, ranks: int) -> None:
    """What a run does with reports: reads them, merges them, asks each tensor what a check asks."""
    from validation.run.result import merged

    case = _case(ranks)
    reports = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    result = merged(case, 0.0, {}, reports)
    del reports
    for name, pieces in result.pieces.items():
        shape = tuple(max(piece.box[axis][1] for piece in pieces) for axis in range(len(pieces[0].box)))
        found = result.measurement(name, shape)
        if found.missing() or found.overlaps() or found.disagreeing() or found.worst.rank not in found.ranks:
            raise SystemExit(f"{name} is not whole")


def ranks(count: int) -> Iterator[tuple[str, Spent]]:
    """A whole run, cache and all, with so many data-parallel ranks and two sequences each."""
    with tempfile.TemporaryDirectory(prefix="plumbline-growth-") as name:
        yield from _parts(name, "--layouts", f"dp{count}", "--batch-size", str(2 * count), "--max-ranks", "64")


def layers(count: int) -> Iterator[tuple[str, Spent]]:
    """A whole run, cache and all, with so many layers."""
    with tempfile.TemporaryDirectory(prefix="plumbline-growth-") as name:
        yield from _parts(name, "--layouts", "single", "--set", f"num_hidden_layers={count}")


def _parts(folder: str, *words: str) -> Iterator[tuple[str, Spent]]:
    """Of a run that has to compute its reference: all of it, and its parts."""
    whole, stored = _run(folder, *words), _run(folder, *words)
    start = _run(folder, *words, "--only", "Every rank finishes")
    yield "run", whole
    yield "reference", Spent(whole.seconds - stored.seconds, whole.peak)
    yield "start", start
    yield "compare and report", Spent(stored.seconds - start.seconds, stored.peak)


def _run(folder: str, *words: str) -> Spent:
    given = ["--steps", "0", "--no-self-test", "--results", f"{folder}/results", *words]
    return _spent(["-m", "validation", "run", *given], PLUMBLINE_CACHE=f"{folder}/cache")


_MEASURES: dict[str, Callable[[int], Iterator[tuple[str, Spent]]]] = {
    "checks": checks,
    "merge": merge,
    "ranks": ranks,
    "layers": layers,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--merge"]:
        _judge(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--results"]:
        _write_results(int(sys.argv[3]), Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--read"]:
        _read_results(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--reports"]:
        for number in range(int(sys.argv[3])):
            Path(sys.argv[2], f"rank-{number}.json").write_text(json.dumps(_report(_case(int(sys.argv[3])), number)))
    else:
        sys.exit(main(sys.argv[1:]))
