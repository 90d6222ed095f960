"""The command behind `Reproduce:` against the whole run that printed it, in turns.

    python benchmarks/reproduction.py [--rounds N] [--layout tp2]

The run has a defect, put in on purpose. Both sides are timed with the reference stored, and with none. Prints seconds and
their ratio.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from validation.case.home import home  # noqa: E402
from validation.compare import native  # noqa: E402

ROUNDS = 5
DEFECT = "tests.checks.broken_specs:reduction_lost"


def timed(words: list[str], cache: Path) -> tuple[float, str]:
    """Seconds of a run that must fail, and what it printed."""
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
    return seconds, done.stdout


def both(layout: str, cache: Path, stored: bool) -> tuple[float, float]:
    """Seconds of the whole run and of its reproduction; without `stored` each begins with no reference."""
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
                print(f"whole {whole:.1f} s, reproduction {selected:.1f} s", flush=True)
            whole, selected = (statistics.median(side) for side in zip(*pairs, strict=True))
            words = "reference stored" if stored else "no reference"
            print(f"{words}: whole {whole:.1f} s, reproduction {selected:.1f} s, ratio {whole / selected:.1f}")


if __name__ == "__main__":
    main()
