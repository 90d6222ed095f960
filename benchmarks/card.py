"""All that is still to be measured on a card, in one go: commands side by side, each on cores of its own.

    python benchmarks/card.py --out FOLDER [--only packed-padded,seeds-steps] [--seconds 540] [--cores 16] [--list FILE]

The list is benchmarks/card.yaml. Commands start in its order as soon as there are cores for them. What runs when time is up is
interrupted, and what has not begun is not run; both are said. FOLDER gets a folder for each command with what it printed and
wrote, card.json and card.md, rewritten after each. Ends with 0 if every command ended with 0, else with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".yaml")
_PATIENCE = 15
"""Seconds that an interrupted command has to write down what it knows."""


@dataclass
class Job:
    """A command of the list. `words` stand behind `python`; `{out}` in them is its folder, `{cores}` its number of cores."""

    name: str
    why: str
    words: str
    cores: int = 3
    seconds: float = 0.0
    """How long it took, or 0 if it has not ended."""
    said: str = "not run"
    process: Any = None
    on: tuple[int, ...] = ()

    def start(self, out: Path, cores: Sequence[int]) -> None:
        """Start it on these cores, in a session of its own."""
        folder = out / self.name
        folder.mkdir(parents=True, exist_ok=True)
        words = self.words.format(out=folder, cores=len(cores)).split()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {"PLUMBLINE_CACHE": str(folder / "cache"), **threads, **os.environ}
        with (folder / "printed.txt").open("w") as printed:
            print("$ python", *words, file=printed, flush=True)
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", ",".join(map(str, cores)), sys.executable, *words],
                cwd=ROOT,
                env=environment,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.on, self.said, self.seconds = tuple(cores), "runs", -time.monotonic()

    def end(self, said: str) -> None:
        """It has ended, whyever."""
        self.said, self.seconds = said, self.seconds + time.monotonic()

    def stop(self) -> None:
        """Interrupt it, and kill what is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.end("interrupted: no time left")


def jobs(path: Path, only: str) -> list[Job]:
    """The list's commands, or those with these names. Raises SystemExit for a name that is not there."""
    found = {row["name"]: Job(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))}
    wanted = [name for name in only.split(",") if name] or list(found)
    if unknown := [name for name in wanted if name not in found]:
        raise SystemExit(f"--only {unknown[0]} is unknown; known are {', '.join(found)}")
    return [found[name] for name in wanted]


def table(rows: Sequence[Job]) -> str:
    """What came of each, in Markdown."""
    lines = ["| command | ended with | s | cores | why |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {row.name} | {row.said} | {max(row.seconds, 0):.0f} | {row.cores} | {row.why} |" for row in rows]
    return "\n".join(lines) + "\n"


def _written(rows: Sequence[Job], out: Path) -> None:
    facts = [{name: getattr(row, name) for name in ("name", "why", "words", "cores", "seconds", "said")} for row in rows]
    (out / "card.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (out / "card.md").write_text(table(rows), encoding="utf-8")


def _ended(rows: Sequence[Job]) -> Iterator[Job]:
    """Those that run no more; their exit codes are noted."""
    for row in rows:
        if row.said == "runs" and (code := row.process.poll()) is not None:
            row.end(f"exit code {code}")
            yield row


def run(rows: Sequence[Job], out: Path, cores: int, seconds: float) -> None:
    """Run them all, as far as time reaches."""
    free, ends = sorted(os.sched_getaffinity(0))[:cores], time.monotonic() + seconds
    waiting = list(rows)
    try:
        while time.monotonic() < ends and any(row.said in ("not run", "runs") for row in rows):
            for row in list(waiting):
                if min(row.cores, cores) <= len(free):
                    waiting.remove(row)
                    taken = min(row.cores, cores)
                    row.start(out, free[:taken])
                    free = free[taken:]
            for row in _ended(rows):
                free = sorted([*free, *row.on])
                print(f"[{row.seconds:5.0f} s] {row.name}: {row.said}", flush=True)
                _written(rows, out)
            time.sleep(0.1)
    finally:
        for row in rows:
            if row.said == "runs":
                row.stop()
        _written(rows, out)


def main(words: Sequence[str] | None = None) -> int:
    """Run the list, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="NAMES", help="these commands, in this order")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all of them together")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--list", type=Path, default=LIST, metavar="FILE")
    given = parser.parse_args(words)
    rows, out = jobs(given.list, given.only), given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    run(rows, out, max(1, min(given.cores, len(os.sched_getaffinity(0)))), given.seconds)
    print(table(rows), end="")
    return int(any(row.said != "exit code 0" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
