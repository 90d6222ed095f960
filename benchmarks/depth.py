"""The memory of a model that is compared layer by layer, at two depths: it is that of one layer whatever the depth.

    python benchmarks/depth.py [--depths 4,61] [--transport gloo] [words of `python -m validation run`]

Layers as wide as those of `mini`. Each depth is a process of its own, because what is measured is the most that a process has
ever had: of the reference's, and of the largest rank. On one rank both are one process (lockstep). Prints memory and seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

MIB = 1 << 20


def run(words: list[str]) -> None:
    """One depth, in this process; the last line of what it prints is JSON."""
    from validation.run.options import parsed
    from validation.run.prepare import prepare
    from validation.run.runner import Runner

    wanted = parsed(words)
    prepare(wanted)
    runner = Runner(wanted)
    runner.start(wanted.cases)
    for case in wanted.cases:
        result = runner.result(case)
        if result.broken is not None:
            raise SystemExit(result.broken.sentence)
        kind = "device_peak" if any(rank["device_peak"] for rank in result.memory) else "peak"
        facts = result.facts
        reference = facts["reference_device_memory"] or facts.get("reference_memory", 0)
        worst = max(
            (result.measurement(name, shape).difference.relative_error for name, shape in probes(case).items()), default=0.0
        )
        found = {
            "case": case.arrangement,
            "reference": reference // MIB,
            "rank": max(rank[kind] for rank in result.memory) // MIB,
            "reference_seconds": facts["reference_seconds"],
            "seconds": round(result.seconds, 1),
            "worst": worst,
        }
        print(json.dumps(found), flush=True)
    runner.close()


def probes(case: object) -> dict[str, tuple[int, ...]]:
    """The probes whose differences are looked at."""
    from validation.case.case import Case
    from validation.case.probes import observed

    assert isinstance(case, Case)
    return {name: probe.shape for name, probe in observed(case).items()}


def main() -> None:
    """Every depth, and what they took."""
    parser = argparse.ArgumentParser(description="memory at several depths")
    parser.add_argument("--depths", default="4,61")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given, words = parser.parse_known_args()
    if given.one:
        run(words)
        return
    for depth in given.depths.split(","):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [
                    *(sys.executable, __file__, "--one", "--preset", "mini", "--stream", "--set", f"num_hidden_layers={depth}"),
                    *words,
                ],
                cwd=ROOT,
                env={**os.environ, "PLUMBLINE_CACHE": home},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        for line in done.stdout.splitlines():
            found = json.loads(line)
            apart = f"reference at most {found['reference']} MiB, " if found["reference"] else "in one process, "
            print(
                f"{depth} layers, {found['case']}: {apart}a rank at most {found['rank']} MiB; "
                f"{found['reference_seconds']:.0f} s of the reference and {found['seconds']:.0f} s; "
                f"worst relative error {found['worst']:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
