"""The same cases (a) in one command and (b) the usual way, one torchrun per layout, side by side in one run.

    python benchmarks/layouts.py [--steps N] [tp2,pp2,...]

By default the layouts of `nox -s parity`, with two optimizer steps. Both sides start with no reference stored, and both end
with every difference merged and judged. Prints seconds and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ci.table import rows  # noqa: E402
from validation.case.case import Case  # noqa: E402
from validation.case.home import home  # noqa: E402
from validation.compare import native  # noqa: E402
from validation.run.options import parsed  # noqa: E402

ROUNDS = 3
"""How often one command is timed, between the torchruns: a neighbour that is busy for minutes would favour one side."""


def one_command(words: list[str]) -> float:
    """Seconds for all layouts in one command."""
    with tempfile.TemporaryDirectory() as folder:
        # Compiled once on a machine, as it is for the other side, which keeps no references.
        shutil.copytree(home() / "native", Path(folder) / "cache" / "native")
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "validation", "run", *words, "--no-self-test", "--results", folder],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PLUMBLINE_CACHE": f"{folder}/cache"},
        )
        return time.monotonic() - start


def usual_way(case: Case) -> float:
    """Seconds for one layout by torchrun, and the merged verdicts checked."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(case.layout.ranks)),
                *("--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
                *(str(ROOT / "benchmarks" / "usual.py"), case.to_json(), folder),
            ],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        judge(case, Path(folder))
        return time.monotonic() - start


def judge(case: Case, folder: Path) -> None:
    """Fail unless every probe, gradient and step of the run holds: a fast run that compared nothing is no measurement."""
    from validation.case.parameters import parameters
    from validation.case.probes import observed
    from validation.case.steps import stepped
    from validation.compare.limits import AFTER_STEPS, IN_FP64
    from validation.compare.verdict import judge as verdict
    from validation.run.result import merged

    reports = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(case.layout.ranks)]
    result = merged(case, 0.0, {}, reports)
    limits = IN_FP64
    expected = {name: (probe.shape, limits) for name, probe in observed(case).items()}
    expected |= {f"gradients/{name}": (known.shape, limits) for name, known in parameters(case.model).items() if known.trained}
    expected |= {one.name: (one.shape, AFTER_STEPS) for one in stepped(case).values()}
    for name, (shape, limit) in expected.items():
        found = verdict(result.measurement(name, shape), name, limit)
        if found.status != "pass":
            raise SystemExit(found.line)


def main() -> None:
    """Run both sides and print them."""
    parser = argparse.ArgumentParser(description="one command against one torchrun per layout")
    parity = next(row for row in rows() if row.session == "parity")
    parser.add_argument("layouts", nargs="?", default=",".join(parity.layouts))
    parser.add_argument("--steps", help="optimizer steps in every case (default: those of nox -s parity)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    first, count = given.layouts.split(",")[0], len(given.layouts.split(","))
    steps = [] if given.steps is None else ["--steps", given.steps]
    timed, further, theirs = [], [], 0.0
    native.library()

    def one_round() -> None:
        timed.append(one_command(["--layouts", given.layouts, *steps]))
        alone = one_command(["--layouts", first, *steps])
        further.append((timed[-1] - alone) / max(1, count - 1))
        print(
            f"one command, {count} layouts: {timed[-1]:.1f} s; {first} alone: {alone:.1f} s; "
            f"each further layout {further[-1]:.2f} s",
            flush=True,
        )

    every = -(-count // given.rounds)
    for index, case in enumerate(parsed(["--layouts", given.layouts, *steps]).cases):
        if index % every == 0:
            one_round()
        seconds = usual_way(case)
        theirs += seconds
        print(f"one torchrun, {case.arrangement}: {seconds:.1f} s", flush=True)
    ours = statistics.median(timed)
    print(f"one command: median {ours:.1f} s, each further layout {statistics.median(further):.2f} s")
    print(f"one torchrun per layout: {theirs:.1f} s")
    print(f"ratio: {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
