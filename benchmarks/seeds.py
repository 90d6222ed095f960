"""Sound cases over many seeds: counts them and names every check that is red, which is a false alarm.

    python benchmarks/seeds.py OUT.jsonl --seeds 100:200 --processes 16 --precisions fp32,bf16 -- --layouts single,tp2 --steps 2

What stands behind -- goes to `python -m validation run`. OUT.jsonl has a line for each command; those that are there are not
run again, so that it may be interrupted (--seconds ends it by itself). Weights, tokens and mask are new for every seed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

Run = tuple[int, str]
"""A seed and a precision."""
_RED = ("fail", "error")


def measured(run: Run, words: list[str]) -> dict[str, Any]:
    """One command, run in this process: how many cases and checks there were, and each that was red."""
    from ci import junit
    from validation.cli import main

    seed, precision = run
    folder = Path(tempfile.mkdtemp())
    given = ["run", "--no-self-test", "--seed", str(seed), "--precision", precision, "--results", str(folder), *words]
    try:
        with (
            (folder / "printed.txt").open("w") as printed,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            code = main(given)
        suites = {file.stem: junit.read(file) for file in sorted(folder.glob("*.xml"))}
        red = [
            f"{name}: {one.name}: {one.message}" for name, suite in suites.items() for one in suite.checks if one.status in _RED
        ]
        checks = sum(len(suite.checks) for suite in suites.values())
        said = "" if suites else (folder / "printed.txt").read_text()[-1000:]
    finally:
        shutil.rmtree(folder)
    return {
        "seed": seed,
        "precision": precision,
        "code": code,
        "cases": len(suites),
        "checks": checks,
        "red": red,
        "said": said,
    }


def share(runs: list[Run], words: list[str], out: Path, ends: float) -> None:
    """Several commands one after the other, with references of their own that are thrown away."""
    home = tempfile.mkdtemp()
    os.environ["PLUMBLINE_CACHE"] = home
    try:
        for run in runs:
            if time.monotonic() > ends:
                return
            line = json.dumps(measured(run, words)) + "\n"
            with out.open("a") as file:
                file.write(line)
            shutil.rmtree(home, ignore_errors=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def report(lines: list[dict[str, Any]]) -> Iterator[str]:
    """What was found, precision by precision, and every red check."""
    for precision in sorted({line["precision"] for line in lines}):
        mine = [line for line in lines if line["precision"] == precision]
        cases, checks = (sum(line[what] for line in mine) for what in ("cases", "checks"))
        red = [f"seed {line['seed']}: {said}" for line in mine for said in line["red"]]
        yield f"{precision}: {len(mine)} seeds, {cases} cases, {checks} checks, {len(red)} red"
        yield from (f"  {said}" for said in red)
        yield from (f"  seed {line['seed']}: exit code {line['code']}: {line['said']}" for line in mine if not line["cases"])


def main() -> int:
    """Run, and report all that OUT.jsonl has; 1 if a check was red or a command made no report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="100:110", help="first:behind the last")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600.0)
    mine, _, words = " ".join(sys.argv[1:]).partition(" -- ")
    given = parser.parse_args(mine.split())
    first, _, behind = given.seeds.partition(":")
    there = given.out.read_text().splitlines() if given.out.exists() else []
    done = {(line["seed"], line["precision"]) for line in map(json.loads, there)}
    wanted = [(seed, precision) for seed in range(int(first), int(behind)) for precision in given.precisions.split(",")]
    runs = [run for run in wanted if run not in done]
    ends = time.monotonic() + given.seconds
    start = multiprocessing.get_context("spawn").Process
    shares = [
        start(target=share, args=(runs[at :: given.processes], words.split(), given.out, ends)) for at in range(given.processes)
    ]
    for process in shares:
        process.start()
    for process in shares:
        process.join()
    lines = [json.loads(line) for line in given.out.read_text().splitlines()]
    print("\n".join(report(lines)))
    return int(any(line["red"] or not line["cases"] for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
