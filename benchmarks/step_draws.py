"""How often one more run of the HuggingFace model is off by more than the limits of what optimizer steps leave.

    python benchmarks/step_draws.py --seeds 1000:1011 [--precision fp32] [--runs 60] [--layout single] [--as-shown]

The runs of a floor move their inputs by one rounding step with two seeds; these runs do with others. The choices are the
truth's. Every run that is over a limit would be a false alarm. With --as-shown no single element is moved on purpose
(validation/reference/turning.py): limits then know what the runs of the floor have shown and no more.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from validation.case.case import Case  # noqa: E402
from validation.case.steps import STEPS  # noqa: E402
from validation.compare.limits import FLOORS  # noqa: E402
from validation.compare.precision import DTYPES, computing_in  # noqa: E402
from validation.reference import compute, step_floor, turning  # noqa: E402
from validation.reference import model as reference_model  # noqa: E402
from validation.reference.batch import make_batch  # noqa: E402
from validation.reference.checkpoint import Checkpoint  # noqa: E402
from validation.reference.floor import VARIANTS, Variant, difference_from  # noqa: E402
from validation.reference.models import Models  # noqa: E402
from validation.reference.record import Recording  # noqa: E402
from validation.reference.sources import Precision  # noqa: E402
from validation.reference.steps import Steps  # noqa: E402
from validation.reference.store import Reference  # noqa: E402
from validation.run.options import parsed  # noqa: E402


def drawn(case: Case, reference: Reference, runs: int) -> Iterator[tuple[float, str]]:
    """Of each run the largest share of a limit, and where."""
    routes, truth, floors = load_file(reference.routing), load_file(reference.steps), reference.facts()["floor"]
    chosen = [
        {name.removeprefix(f"step {step}/"): value for name, value in routes.items() if name.startswith(f"step {step}/")}
        for step in range(2, case.training.steps + 1)
    ]
    batches, dtype = [make_batch(case, step) for step in range(case.training.steps)], DTYPES[case.precision]
    weights = Checkpoint.open(reference.weights(case), case.model)
    scale = 2.0 ** int(batches[0].mask.sum()).bit_length()
    with computing_in(case.precision):
        for moved in range(len(VARIANTS), len(VARIANTS) + runs):
            models = Models.build(case, weights, Precision(dtype, dtype), torch.device("cpu"))
            steps, record = Steps(models.hf, models.mtp, case), functools.partial(models.quietly, scale=scale)
            with reference_model.varied(models.hf, Variant(moved=moved)):
                with steps.loads.counting(batches[0]):
                    record(batches[0], Recording(routes))
                step_floor.rounded_steps(steps, batches[1:], chosen, record, scale)
            of = {key: difference_from(truth[key], value).relative_error for key, value in steps.kept.items()}
            yield max((error / FLOORS / floors[STEPS + key], key) for key, error in of.items() if STEPS + key in floors)


def main() -> int:
    """Run, and say what came of each seed; 1 if a run was over a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1000:1011", help="first:behind the last, or single ones with commas")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--layout", default="single", help="with its options")
    parser.add_argument("--steps", default="2")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--as-shown", action="store_true")
    given = parser.parse_args()
    first, _, behind = given.seeds.partition(":")
    seeds = range(int(first), int(behind)) if behind else [int(seed) for seed in first.split(",")]
    if given.as_shown:
        turning.MATTERS = float("inf")
    over, count = 0, 0
    for seed in seeds:
        words = ["--layouts", given.layout, "--precision", given.precision, "--seed", str(seed), "--steps", given.steps]
        case = parsed(words).cases[0]
        with tempfile.TemporaryDirectory() as home:
            reference = compute.compute(case, Path(home), torch.device("cpu"), lambda said: None)
            found = list(drawn(case, reference, given.runs))
        wrong = sum(share > 1 for share, _ in found)
        over, count = over + wrong, count + len(found)
        share, where = max(found)
        print(f"seed {seed}: {wrong} of {len(found)} runs over a limit, at most {share:.2f} of one ({where})", flush=True)
    print(f"{given.precision}: {over} of {count} runs over a limit")
    return int(over > 0)


if __name__ == "__main__":
    raise SystemExit(main())
