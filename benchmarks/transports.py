"""The same cases over nccl, a GPU for each rank, and over staged, all ranks on one card: a table of both beside each other.

    python benchmarks/transports.py [--gpus N] [--out FOLDER] [--seconds 480] [--only local/fp32,te/bf16,v3-layers] [--ranks N]

mini in every layout that so many GPUs hold (with --ranks in those of so many ranks alone), and v3-layers. Says of each case
both verdicts, worst ratios, seconds and memory, how many checks measured the same numbers to the bit, and how far apart the
others are at most, in floors: the difference of two errors is no larger than that of the two results. Each command starts bare,
so that its first case pays for imports, and the first of a pair for the reference, too. What breaks is written down, and the
next command is run; when time is up, the rest is written down as not run. The folder gets transports.json and transports.md,
rewritten after every pair, and log.txt. `--rehearse` runs it on the CPU, gloo beside staged-cpu, with tiny in place of mini.
Ends with 0 if every case was run and passed over both with the same verdicts, else with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu import Row, row
from ci import junit
from validation.machine import gpu_names, gpus
from validation.run.options import parsed

ROOT = Path(__file__).parents[1]
LAYOUTS = {
    2: "tp2,pp2,ep2,cp2,tp2ep2",
    4: "tp2pp2,tp4,ep4,tp2cp2,tp4ep2,tp2pp2ep2,tp2ep2dp2",
    8: "tp4ep2dp2,tp2pp2ep2dp2",
}
"""Of mini, by the GPUs that they need over nccl."""
TRUE_GEOMETRY = {2: ("tp2,ep2", "4096"), 4: ("ep4", "4096"), 8: ("ep8", "2048")}
"""Of v3-layers, each with a sequence's length: a sequence for each rank, and the reference of all has to fit on one card."""
TIMEOUT = "240"
"""Seconds that a case gets, and a reference."""


@dataclass(frozen=True)
class Group:
    """Cases that have their words in common: one command over each transport."""

    name: str
    ranks: int
    words: tuple[str, ...]


def groups(count: int, rehearse: bool = False, alone: int | None = None) -> Iterator[Group]:
    """What so many GPUs hold, the largest layouts first: those are missed most where time runs out.

    `alone` is a number of ranks; layouts of others are left out.
    """
    held = sorted((ranks for ranks in LAYOUTS if ranks <= count and alone in (None, ranks)), reverse=True)
    for ranks in held:
        for implementation, precision in (("local", "bf16"), ("local", "fp32"), ("te", "bf16"), ("te", "fp32")):
            # Of Transformer Engine's attentions only those without fp32 know context parallelism.
            layouts = [
                one for one in LAYOUTS[ranks].split(",") if (implementation, precision) != ("te", "fp32") or "cp" not in one
            ]
            words = ("--preset", "mini", "--implementation", implementation, "--precision", precision, *_sequences(ranks))
            yield Group(f"{implementation}/{precision}", ranks, (*words, "--layouts", ",".join(layouts)))
    if held and not rehearse:
        parts, length = TRUE_GEOMETRY[held[0]]
        common = ("--preset", "v3-layers", "--precision", "bf16", "--seq-length", length, *_sequences(held[0]))
        yield Group("v3-layers", held[0], (*common, "--layouts", parts))


def _sequences(ranks: int) -> tuple[str, str]:
    """Where only experts are cut, every rank has tokens of its own."""
    return "--batch-size", str(ranks)


@dataclass(frozen=True)
class Pair:
    """One case over both transports. `apart` in floors, at the check where it is largest; `same` of `compared` to the bit."""

    nccl: Row
    staged: Row
    compared: int = 0
    same: int = 0
    apart: float = 0.0
    apart_check: str = ""
    other_verdicts: str = ""

    @property
    def agrees(self) -> bool:
        """Both were run and passed, and no check has another verdict."""
        return {self.nccl.verdict, self.staged.verdict} == {"pass"} and not self.other_verdicts


NUMBERS = ("max_diff", "avg_diff", "rel_error")


def beside(nccl: Row, staged: Row, ours: Sequence[junit.Check], theirs: Sequence[junit.Check]) -> Pair:
    """The checks of one case, each beside its namesake. One that only one side has is another verdict, unless that has none."""
    first, second = ({(check.component, check.name): check for check in checks} for checks in (ours, theirs))
    other = [name for _, name in first.keys() ^ second.keys()] if ours and theirs else []
    compared, same, apart, at = 0, 0, 0.0, ""
    for key in first.keys() & second.keys():
        one, two = first[key], second[key]
        if one.status != two.status:
            other.append(one.name)
        if not all(number in check.properties for number in NUMBERS for check in (one, two)):
            continue
        compared += 1
        same += all(one.properties[number] == two.properties[number] for number in NUMBERS)
        if (distance := floors_apart(one.properties, two.properties)) > apart:
            apart, at = distance, one.name
    return Pair(nccl, staged, compared, same, apart, at, ", ".join(sorted(other)))


def floors_apart(one: Mapping[str, str], two: Mapping[str, str]) -> float:
    """How far apart two relative errors are, in units of the floor of the tensor; no distance where it has none."""
    floor = float(one.get("floor", "0") or 0)
    return abs(float(one["rel_error"]) - float(two["rel_error"])) / floor if floor else 0.0


def command(group: Group, transport: str, rehearse: bool) -> tuple[list[str], dict[str, str]]:
    """The words of the group over a transport, and what its environment has beside."""
    words = list(group.words)
    if rehearse:
        words[words.index("--preset") + 1] = "tiny"
        words[words.index("--implementation") + 1] = "local"
        return [*words, "--transport", "gloo" if transport == "nccl" else "staged-cpu"], {}
    if transport == "nccl":
        return [*words, "--transport", "nccl"], {}
    return [*words, "--share-gpu", str(group.ranks)], {"CUDA_VISIBLE_DEVICES": "0"}


def run(group: Group, transport: str, options: Any, seconds: float) -> Mapping[str, tuple[Row, Sequence[junit.Check]]]:
    """One command, to its end: of each of its layouts a row, and the checks."""
    words, variables = command(group, transport, options.rehearse)
    results = options.out / "junit"
    cases = parsed(words).cases
    if seconds <= 0:
        return {case.layout.name: (Row(case.name, "not run"), ()) for case in cases}
    for case in cases:
        (results / f"{case.name}.xml").unlink(missing_ok=True)
    asked = ["run", *words, "--results", str(results), "--no-self-test", "--timeout", TIMEOUT]
    done = subprocess.run(
        [sys.executable, "-m", "validation", *asked],
        cwd=ROOT,
        env={"PLUMBLINE_CACHE": str(options.out / "cache"), **os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    with (options.out / "log.txt").open("a") as log:
        print("$", *(f"{name}={value}" for name, value in variables.items()), *asked, file=log)
        print(done.stdout, file=log)
    found = {}
    for case in cases:
        path = results / f"{case.name}.xml"
        one = row(path, case.name, done.returncode, done.stdout)
        found[case.layout.name] = one, junit.read(path).checks if one.checks else ()
    return found


def both(group: Group, options: Any, start: float) -> Iterator[Pair]:
    """The cases of a group, over both transports."""
    ours, theirs = (
        run(group, transport, options, options.seconds - (time.monotonic() - start)) for transport in ("nccl", "staged")
    )
    for layout, (nccl, checks) in ours.items():
        staged, others = theirs[layout]
        yield beside(nccl, staged, checks, others)


def line(pair: Pair) -> str:
    """A row of the table in Markdown."""
    rows = (pair.nccl, pair.staged)
    fields = ("verdict", "checks", "worst", "seconds", "gpu_mib")
    columns = [" / ".join(str(getattr(one, field)) for one in rows) for field in fields]
    cells = (
        pair.nccl.case or pair.staged.case,
        *columns,
        f"{pair.same} of {pair.compared}",
        f"{pair.apart:.2g}",
        pair.apart_check,
    )
    return f"| {' | '.join(cells)} |"


def table(pairs: Sequence[Pair], cards: str) -> str:
    """The pairs in Markdown: the first number of each cell over nccl, the second over staged."""
    heads = ("case", "verdicts", "checks", "error / limit", "s", "MiB a rank", "same to the bit", "apart, in floors", "at")
    lines = [cards, "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *map(line, pairs), ""]
    lines += [f"- {one.case}: {one.message}" for pair in pairs for one in (pair.nccl, pair.staged) if one.message]
    lines += [f"- {pair.nccl.case}: other verdicts in {pair.other_verdicts}" for pair in pairs if pair.other_verdicts]
    return "\n".join(lines) + "\n"


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=None, metavar="N", help="GPUs to use, by default all that are here")
    parser.add_argument("--out", type=Path, default=Path("results") / "transports", metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which no further command is started")
    parser.add_argument("--only", default="", metavar="local/fp32,te/bf16", help="these groups, in this order")
    parser.add_argument("--ranks", type=int, choices=tuple(LAYOUTS), help="leave out layouts of other numbers of ranks")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU: gloo beside staged-cpu, and tiny for mini")
    return parser.parse_args()


def main() -> int:
    """Run the groups over both transports, and write the table after every pair of commands."""
    options = _options()
    options.out = options.out.absolute()
    count = options.gpus or (2 if options.rehearse else gpus())
    known = list(groups(count, options.rehearse, options.ranks))
    if not known:
        ranks = options.ranks or "at least two"
        said = f"nccl needs a GPU for each of {ranks} ranks, and {count} is too few; --rehearse runs on the CPU"
        print(said, file=sys.stderr)
        return 3
    every = dict.fromkeys(group.name for group in known)
    wanted = [name for name in options.only.split(",") if name] or list(every)
    if unknown := [name for name in wanted if name not in every]:
        print(f"--only {unknown[0]} is unknown; known are {', '.join(every)}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    cards, pairs, start = "; ".join(gpu_names()), list[Pair](), time.monotonic()
    for group in (group for name in wanted for group in known if group.name == name):
        for pair in both(group, options, start):
            pairs.append(pair)
            print(f"[{time.monotonic() - start:5.1f} s] {line(pair)}", flush=True)
        written = {"cards": cards, "pairs": [asdict(pair) for pair in pairs]}
        (options.out / "transports.json").write_text(json.dumps(written, indent=1))
        (options.out / "transports.md").write_text(table(pairs, cards))
    return int(not all(pair.agrees for pair in pairs))


if __name__ == "__main__":
    sys.exit(main())
