"""How far from the truth the clean candidate gets, in floors: what k has to be so that it raises no false alarm.

    python benchmarks/false_alarms.py run OUT.jsonl --seeds 1:201 [--precisions fp32,bf16] [--layouts ...] [--jobs N]
    python benchmarks/false_alarms.py report OUT.jsonl [MORE.jsonl ...]

`run` adds a line for each case to OUT.jsonl and leaves out those that are there or in docs/decisions/0001-tolerance.jsonl.gz,
what has been run so far: it may be interrupted, and be run in several processes with seeds of their own. `report` reads both,
writes docs/decisions/0001-tolerance.json and the SVG beside it, and prints what docs/decisions/0001-tolerance.md says. Both
sides are new for every seed: weights, tokens, mask.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ci.table import rows  # noqa: E402
from validation.case.case import Case  # noqa: E402
from validation.case.parameters import parameters  # noqa: E402
from validation.case.probes import observed  # noqa: E402
from validation.run import launch  # noqa: E402
from validation.run.options import parsed  # noqa: E402
from validation.run.references import REFERENCES  # noqa: E402

if TYPE_CHECKING:
    from validation.run.result import Result

DECISION = ROOT / "docs" / "decisions" / "0001-tolerance"
KEPT = DECISION.with_suffix(".jsonl.gz")
PLUGIN = "benchmarks.torch_testing"


def layouts() -> str:
    """The kinds of layout that `nox -s parity` runs; optimizer variants are the same forward and backward pass."""
    parity = next(row for row in rows() if row.session == "parity")
    return ",".join(dict.fromkeys(layout.replace("+distributed", "") for layout in parity.layouts))


def cases(seed: int, precision: str, names: str, jobs: int) -> Any:
    """The settings of one seed in one precision."""
    words = ["--layouts", names, "--precision", precision, "--seed", str(seed), "--jobs", str(jobs)]
    return parsed(words)


def measured(case: Case, result: Result) -> dict[str, Any]:
    """The worst of a case: errors in floors, flips in score floors, and what fixed rules see of the logits."""
    from benchmarks.torch_testing import REJECTED

    floors = result.facts["floor"]
    probes = observed(case)
    shapes = {name: probe.shape for name, probe in probes.items()}
    shapes |= {f"probe_gradients/{name}": probe.shape for name, probe in probes.items() if probe.has_gradient}
    shapes |= {f"gradients/{name}": known.shape for name, known in parameters(case.model).items() if known.trained}
    errors = {
        name: result.measurement(name, shape).difference.relative_error for name, shape in shapes.items() if name in floors
    }
    ratios = {name: _ratio(error, floors[name]) for name, error in errors.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    score_floors = result.facts["score_floor"]
    flips = {name: result.measurement(f"flips/{name}", shapes[name][:2]).difference for name in score_floors}
    logits = result.measurement("logits", shapes["logits"]).difference
    squares = logits.sum_squares + 2 * logits.cross - logits.reference_squares
    return {
        "ratio": ratios[worst],
        "worst": worst,
        "forward": max(ratio for name, ratio in ratios.items() if "gradients/" not in name),
        "flips": max((_ratio(flip.max_abs, score_floors[name]) for name, flip in flips.items()), default=0.0),
        "flipped": sum(flip.differing for flip in flips.values()),
        "logits_max": logits.max_abs,
        "logits_mean": logits.average,
        "logits_cosine": logits.cross / math.sqrt(squares * logits.reference_squares),
        "logits_rejected": result.measurement(f"{REJECTED}logits", shapes["logits"]).difference.differing,
    }


def _ratio(error: float, floor: float) -> float:
    return error / floor if floor else (0.0 if error == 0 else math.inf)


def run(out: Path, seeds: range, precisions: list[str], names: str, jobs: int) -> None:
    """Every case that `out` does not have yet."""
    launch.prepare("gloo")
    launch.warm_up()
    REFERENCES.warm_up()
    there = {line["case"] for line in _lines([path for path in (KEPT, out) if path.exists()])}
    for seed in seeds:
        for precision in precisions:
            wanted = cases(seed, precision, names, jobs)
            left = [case for case in wanted.cases if case.name not in there]
            if left:
                start = time.monotonic()
                with out.open("a") as file:
                    for line in _measured(wanted, left):
                        file.write(json.dumps(line) + "\n")
                print(f"seed {seed} {precision}: {len(left)} cases, {time.monotonic() - start:.1f} s", flush=True)


def _measured(wanted: Any, left: list[Case]) -> Iterator[dict[str, Any]]:
    from validation.run.runner import Runner

    with tempfile.TemporaryDirectory() as home:
        runner = Runner(replace(wanted, home=Path(home)))
        runner.start(left, PLUGIN)
        for case in left:
            result = runner.result(case, PLUGIN)
            if result.broken is not None:
                raise SystemExit(f"{case.title}: {result.broken.sentence}\n{result.broken.stacks}")
            yield {"case": case.name, "seed": case.seed, "precision": case.precision, **measured(case, result)}
        runner.close(references=False)


def _lines(files: list[Path]) -> list[dict[str, Any]]:
    texts = (gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text() for path in files)
    return list({line["case"]: line for text in texts for line in map(json.loads, text.splitlines())}.values())


RULES = {
    "max diff < 1e-3 (logits)": lambda line: line["logits_max"] < 1e-3,
    "cosine >= 0.99 (logits)": lambda line: line["logits_cosine"] >= 0.99,
    "mean abs < 0.1 (logits)": lambda line: line["logits_mean"] < 0.1,
    "torch.testing defaults (logits)": lambda line: line.get("logits_rejected", 0) == 0,
}
"""What peers accept, on the same runs; in the lower precisions with the truth in place of their reference."""


def report(files: list[Path]) -> None:
    """Print the distribution, and write it with its picture."""
    lines = _lines(files)
    found: dict[str, Any] = {}
    for precision in sorted({line["precision"] for line in lines}):
        mine = [line for line in lines if line["precision"] == precision]
        ratios, worst = sorted(line["ratio"] for line in mine), max(mine, key=lambda line: line["ratio"])
        found[precision] = {
            "cases": len(mine),
            "seeds": len({line["seed"] for line in mine}),
            "quantiles": {f"{q:g}": round(ratios[min(len(ratios) - 1, int(q * len(ratios)))], 4) for q in (0.5, 0.9, 0.99)},
            "largest": round(ratios[-1], 4),
            "largest_forward": round(max(line["forward"] for line in mine), 4),
            "worst": f"{worst['case']} {worst['worst']}",
            "flips_in_score_floors": round(max(line["flips"] for line in mine), 4),
            "flipped_tokens": sum(line["flipped"] for line in mine),
            "rules_that_reject": {name: sum(not rule(line) for line in mine) for name, rule in RULES.items()},
            "cases_with_torch_testing": sum("logits_rejected" in line for line in mine),
            "histogram": _histogram(ratios),
        }
    DECISION.parent.mkdir(exist_ok=True)
    DECISION.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    DECISION.with_suffix(".svg").write_text(_picture(found))
    print(json.dumps({name: {k: v for k, v in one.items() if k != "histogram"} for name, one in found.items()}, indent=1))


_BIN = 0.05


def _histogram(ratios: list[float]) -> dict[str, int]:
    counts: dict[int, int] = {}
    for ratio in ratios:
        counts[int(ratio / _BIN)] = counts.get(int(ratio / _BIN), 0) + 1
    return {f"{index * _BIN:.2f}": count for index, count in sorted(counts.items())}


def _picture(found: dict[str, Any]) -> str:
    """Histograms of the worst ratio of each case, one colour a precision, the limit as a line."""
    from validation.compare.limits import FLOORS

    width, height, left = 720, 260, 50
    largest = max([FLOORS, *(one["largest"] for one in found.values())]) * 1.05
    tallest = max(count for one in found.values() for count in one["histogram"].values())
    colours = dict(zip(found, ("#1f77b4", "#d62728", "#2ca02c", "#9467bd"), strict=False))

    def x(ratio: float) -> float:
        return left + ratio / largest * (width - left - 20)

    bars = [
        f'<rect x="{x(float(start)):.1f}" y="{height - 40 - count / tallest * (height - 80):.1f}" '
        f'width="{max(1.0, x(_BIN) - x(0) - 0.5):.1f}" height="{count / tallest * (height - 80):.1f}" '
        f'fill="{colours[precision]}" fill-opacity="0.55"/>'
        for precision, one in found.items()
        for start, count in one["histogram"].items()
    ]
    ticks = [
        f'<text x="{x(tick):.1f}" y="{height - 22}" text-anchor="middle">{tick:g}</text>'
        for tick in [0.5 * step for step in range(int(largest / 0.5) + 1)]
    ]
    words = [
        f'<text x="{width - 20}" y="{30 + 16 * row}" text-anchor="end" fill="{colours[precision]}">{precision}: '
        f"{one['cases']} cases, largest {one['largest']:g}</text>"
        for row, (precision, one) in enumerate(found.items())
    ]
    line = f'<path d="M{x(FLOORS):.1f} 20V{height - 40}" stroke="black" stroke-dasharray="4 3"/>'
    limit = f'<text x="{x(FLOORS) - 6:.1f}" y="{height - 60}" text-anchor="end">k = {FLOORS:g}</text>'
    axis = f'<path d="M{left} {height - 40}H{width - 20}" stroke="black"/>'
    title = f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">worst error of a case, in floors</text>'
    body = "\n".join([*bars, axis, *ticks, *words, line, limit, title])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("out", type=Path)
    running.add_argument("--seeds", default="1:201", help="first:behind the last")
    running.add_argument("--precisions", default="fp32,bf16")
    running.add_argument("--layouts", default=layouts())
    running.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    reporting = commands.add_parser("report")
    reporting.add_argument("files", type=Path, nargs="+")
    given = parser.parse_args()
    if given.command == "report":
        report(given.files)
        return
    first, _, behind = given.seeds.partition(":")
    run(given.out, range(int(first), int(behind)), given.precisions.split(","), given.layouts, given.jobs)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
