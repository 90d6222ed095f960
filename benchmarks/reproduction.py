"""The command behind `Reproduce:` against the whole run that printed it, in turns.

    python benchmarks/reproduction.py [--rounds N] [--layout tp2]

The run has a defect, put in on purpose. Both sides are timed with the reference stored, and with none. Prints seconds, the
CPU seconds of all processes (which a busy neighbour changes little), and the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from validation.case.home import home  # noqa: E402
from validation.compare import native  # noqa: E402

ROUNDS = 5
_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
DEFECT = "tests.checks.broken_specs:reduction_lost"


@dataclass(frozen=True)
class Took:
    """How long a command took, and how much its processes computed, in seconds."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.1f} s ({self.cpu:.1f} s of CPU)"


def median(found: Iterable[Took]) -> Took:
    """Of each by itself."""
    every = list(found)
    return Took(statistics.median(one.wall for one in every), statistics.median(one.cpu for one in every))


def _computed() -> float:
    """CPU seconds of all processes that were started and have ended, fork servers among them, which this process inherits."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(words: list[str], cache: Path) -> tuple[Took, str]:
    """How long a run takes that must fail, and what it printed."""
    before = _computed()
    with tempfile.TemporaryDirectory() as results:
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, *words, "--results", results],
            cwd=ROOT,
            env={**os.environ, "PLUMBLINE_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
    if done.returncode != 1:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode} and must fail:\n{done.stdout}")
    return Took(seconds, _computed() - before), done.stdout


def both(layout: str, cache: Path, stored: bool) -> tuple[Took, Took]:
    """What the whole run and its reproduction take; without `stored` each begins with no reference."""
    whole, printed = timed(["-m", "validation", "run", "--layouts", layout, "--implementation", DEFECT], cache)
    (again,) = re.findall(r"^Reproduce: python (.*)$", printed, re.M)
    if not stored:
        shutil.rmtree(cache / "references")
    selected, said = timed(shlex.split(again), cache)
    if "(1 check, 1 fail, " not in said:
        raise SystemExit(f"the reproduction has made another check:\n{said}")
    if not stored:
        shutil.rmtree(cache / "references")
    return whole, selected


def main() -> None:
    """Run both sides and print them."""
    parser = argparse.ArgumentParser(description="a reproduction against the whole run")
    parser.add_argument("--layout", default="tp2")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1)
    native.library()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        # Compiled once on a machine.
        shutil.copytree(home() / "native", cache / "native")
        for stored in (False, True):
            if stored:
                both(given.layout, cache, stored)
            pairs = [both(given.layout, cache, stored) for _ in range(given.rounds)]
            for whole, selected in pairs:
                print(f"whole {whole}, reproduction {selected}", flush=True)
            whole, selected = map(median, zip(*pairs, strict=True))
            words = "reference stored" if stored else "no reference"
            ratios = f"{whole.wall / selected.wall:.1f}, of CPU {whole.cpu / selected.cpu:.1f}"
            print(f"{words}: whole {whole}, reproduction {selected}, ratio {ratios}")


if __name__ == "__main__":
    main()
