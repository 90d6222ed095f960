"""What isolation costs: the same cases plain and isolated, in turns, with their references computed each time.

    python benchmarks/isolated.py [--layouts tp2,pp2,...] [--precision fp64] [--rounds 3]

By default the layouts of `nox -s parity`, without optimizer steps. Prints seconds and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.layouts import one_command
from ci.table import rows


def main() -> None:
    """Run both, one after the other, and print them."""
    parser = argparse.ArgumentParser(description="isolated cases against plain ones")
    parity = next(row for row in rows() if row.session == "parity")
    parser.add_argument("--layouts", default=",".join(parity.layouts))
    parser.add_argument("--precision", default="fp64")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    words = ["--layouts", given.layouts, "--precision", given.precision, "--steps", "0"]
    plain, isolated = [], []
    for _ in range(given.rounds):
        plain.append(one_command(words))
        isolated.append(one_command([*words, "--isolated"]))
        print(f"plain {plain[-1]:.1f} s, isolated {isolated[-1]:.1f} s", flush=True)
    ratios = [one / other for one, other in zip(isolated, plain, strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
