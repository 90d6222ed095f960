"""The same cases (a) in one command and (b) the usual way, one torchrun per layout, side by side in one run.

    python benchmarks/layouts.py [tp2,pp2,...]

Both start with no reference stored, and both end with every difference merged and judged. Prints seconds and their ratio.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from validation.case.case import DEFAULT_SEED, Case  # noqa: E402
from validation.case.layout import Layout  # noqa: E402
from validation.case.preset import TINY  # noqa: E402

ROUNDS = 3
"""How often one command is timed: a further layout is a difference of two times, which a busy neighbour spoils."""
LAYOUTS = "single,tp2,pp2,ep2,tp2etp2,tp2ep2,tp2pp2,pp2ep2"


def one_command(layouts: str) -> float:
    """Seconds for all layouts in one command."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "validation", "run", "--layouts", layouts, "--results", folder],
            check=True,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PLUMBLINE_CACHE": f"{folder}/cache"},
        )
        return time.monotonic() - start


def usual_way(layout: str) -> float:
    """Seconds for one layout by torchrun, and the merged verdicts checked."""
    case = Case(
        TINY.name, TINY.model, Layout.parse(layout), "fp64", "local", "gloo", DEFAULT_SEED,
        TINY.batch_size, TINY.micro_batch_size, TINY.seq_length,
    )  # fmt: skip
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
    """Fail unless every probe and gradient of the run holds: a fast run that compared nothing is no measurement."""
    from validation.case.parameters import parameters
    from validation.case.probes import observed
    from validation.compare.verdict import LIMITS
    from validation.compare.verdict import judge as verdict
    from validation.run.result import merged

    reports = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(case.layout.ranks)]
    result = merged(case, 0.0, {}, reports)
    shapes = {name: probe.shape for name, probe in observed(case).items()}
    shapes |= {f"gradients/{name}": known.shape for name, known in parameters(case.model).items() if known.trained}
    for name, shape in shapes.items():
        found = verdict(result.measurement(name, shape), name, LIMITS[case.precision])
        if found.status != "pass":
            raise SystemExit(found.line)


def main() -> None:
    """Run both sides and print them."""
    layouts = sys.argv[1] if len(sys.argv) > 1 else LAYOUTS
    names = layouts.split(",")
    timed, further = [], []
    for _ in range(ROUNDS):
        timed.append(one_command(layouts))
        alone = one_command(names[0])
        further.append((timed[-1] - alone) / (len(names) - 1))
        print(
            f"one command, {len(names)} layouts: {timed[-1]:.1f} s; {names[0]} alone: {alone:.1f} s; "
            f"each further layout {further[-1]:.2f} s",
            flush=True,
        )
    ours = statistics.median(timed)
    print(f"medians: {ours:.1f} s, each further layout {statistics.median(further):.2f} s", flush=True)
    theirs = 0.0
    for name in names:
        seconds = usual_way(name)
        theirs += seconds
        print(f"one torchrun, {name}: {seconds:.1f} s", flush=True)
    print(f"one torchrun per layout: {theirs:.1f} s")
    print(f"ratio: {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
