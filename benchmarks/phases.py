"""Where the time of a case goes, by what its slowest rank and its reference said that they were doing.

    python benchmarks/phases.py --preset mini --implementation te --precision bf16 --share-gpu 4 --layouts tp2,ep2 [--again 3]

The words are those of `python -m validation run`. Cases run one at a time, without a stored reference first and then with it
`--again` times; the first pass of a process pays for imports and kernels. "start and end" is what the command needs beside: it
starts ranks, merges what they leave and judges it. "turn to turn" is what a case costs the command: from its ranks' turn to
that of the next case's, which may come while these end. Seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ci import junit
from validation.cli import main as command
from validation.run.options import parsed
from validation.run.report import READY


def of_ranks(folder: Path) -> dict[str, float]:
    """Seconds by phase, of the rank that took longest."""
    found = [_of_rank(path.read_text().splitlines()) for path in folder.glob("rank-*.times")]
    return max(found, key=lambda phases: sum(phases.values()), default={})


def _of_rank(lines: list[str]) -> dict[str, float]:
    told = [(float(when), said) for when, _, said in (line.partition(" ") for line in lines)]
    phases: dict[str, float] = {}
    for (when, said), (end, _) in itertools.pairwise(told):
        if said == READY:  # the rank waits for its turn
            phases.clear()
            continue
        phases[said] = phases.get(said, 0.0) + end - when
    return phases


def turn_of(folder: Path) -> float:
    """When the first rank had its turn, or, of ranks that were not held before it, when it started."""
    return min(map(_turn_of_rank, (path.read_text().splitlines() for path in folder.glob("rank-*.times"))), default=math.nan)


def _turn_of_rank(lines: list[str]) -> float:
    told = [line.partition(" ") for line in lines]
    ready = next((at for at, (_, _, said) in enumerate(told) if said == READY), -1)
    return float(told[ready + 1][0])


def of_references(cache: Path) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Each stored reference, and seconds by phase."""
    for path in sorted(cache.rglob("reference.json")):
        facts = json.loads(path.read_text())
        phases: dict[str, float] = {}
        part = ""
        for said, seconds in facts.get("reference_phases", ()):
            part = part if said.startswith("reference ") else said  # what a truth or a run of the floor goes through
            phases[part] = phases.get(part, 0.0) + seconds
        yield f"reference {path.parent.name[:8]}", {**phases, "all": facts.get("reference_seconds", 0.0)}


def table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """A column a case, a row a phase, in the order in which they were first seen."""
    phases = list(dict.fromkeys(phase for column in columns.values() for phase in column))
    lines = [["phase", *columns], ["---"] * (len(columns) + 1)]
    lines += [[phase, *(f"{column[phase]:.2f}" if phase in column else "" for column in columns.values())] for phase in phases]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def one_pass(words: list[str], results: Path) -> dict[str, dict[str, float]]:
    """One command; by case, seconds of each phase and of all."""
    start = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = command(["run", *words, "--debug", "--jobs", "1", "--no-self-test", "--results", str(results)])
    seconds = time.monotonic() - start
    if code:
        print(said.getvalue()[-3000:])
    found, names = {}, {case.name: case.label for case in parsed(words).cases}
    for name, label in names.items():
        whole = junit.read(results / f"{name}.xml").seconds
        phases = of_ranks(results / "debug" / name)
        found[label] = {**phases, "start and end": whole - sum(phases.values()), "all": whole}
    turns = {label: turn_of(results / "debug" / name) for name, label in names.items()}
    for one, following in itertools.pairwise(found):
        found[one]["turn to turn"] = turns[following] - turns[one]
    print(f"{len(found)} cases in {seconds:.1f} s, exit code {code}", flush=True)
    return found


def main() -> int:
    """The first pass, the reference, and further passes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--again", type=int, default=2)
    asked, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLUMBLINE_CACHE"] = f"{folder}/cache"
        for number in range(asked.again + 1):
            print(f"pass {number}:", end=" ")
            found = one_pass(words, Path(folder) / f"results-{number}")
            if number == 0:
                print(table(dict(of_references(Path(folder) / "cache"))))
            print(table(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
