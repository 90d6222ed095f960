"""How far from the truth the optimizer steps of a clean candidate get below fp64, in limits: above 1 is a false alarm.

    python benchmarks/step_alarms.py OUT.jsonl --seeds 1:11 [--precisions fp32,bf16] [--layouts ...] [--set NAME=VALUE]

Adds a line for each case to OUT.jsonl and prints, for each precision, the cases, the largest share of a limit by kind of check,
and the checks that would fail or be undecided. Both sides are new for every seed: weights, tokens, mask.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from validation.case.case import Case  # noqa: E402
from validation.case.steps import stepped  # noqa: E402
from validation.compare.limits import above_floor  # noqa: E402
from validation.run import launch  # noqa: E402
from validation.run.options import parsed  # noqa: E402
from validation.run.references import REFERENCES  # noqa: E402

if TYPE_CHECKING:
    from validation.run.result import Result

LAYOUTS = "single,tp2,pp2,ep2,cp2,dp2+distributed"


def measured(case: Case, result: Result) -> dict[str, Any]:
    """The largest share of a limit by kind, and the checks that a run would not pass."""
    worst: dict[str, tuple[float, str]] = {}
    wrong = []
    for one in stepped(case).values():
        floor, magnitude, turned = (result.facts[kind].get(one.name, 0.0) for kind in ("floor", "magnitude", "turned"))
        fp8, by_formula = case.training.fp8 != "none", one.name in result.by_formula
        limits = above_floor(floor, case.precision, magnitude, turned, fp8=fp8, by_formula=by_formula)
        difference = result.measurement(one.name, one.shape).difference
        shares = [difference.relative_error / limits.relative_error, abs(difference.projection - 1) / limits.relative_error]
        shares += [] if limits.max_abs is None else [difference.max_abs / limits.max_abs]
        kind = f"{one.key.split('/')[1]} {one.step}"
        worst[kind] = max(worst.get(kind, (0.0, "")), (max(shares), one.title))
        if not max(shares) <= 1 or limits.undecided:
            wrong.append(f"{one.title}: {max(shares):.2f} of {limits.relative_error:.2g}")
    return {"case": case.name, "precision": case.precision, "worst": worst, "wrong": wrong}


def of_seed(words: list[str]) -> Iterator[dict[str, Any]]:
    """The cases of one command line, run."""
    from validation.run.runner import Runner

    wanted = parsed(words)
    with tempfile.TemporaryDirectory() as home:
        runner = Runner(replace(wanted, home=Path(home)))
        runner.start(list(wanted.cases))
        for case in wanted.cases:
            result = runner.result(case)
            if result.broken is not None:
                raise SystemExit(f"{case.title}: {result.broken.sentence}\n{result.broken.stacks}")
            yield measured(case, result)
        runner.close(references=False)


def report(lines: list[dict[str, Any]]) -> Iterator[str]:
    """What was found, precision by precision."""
    for precision in sorted({line["precision"] for line in lines}):
        mine = [line for line in lines if line["precision"] == precision]
        kinds = sorted({kind for line in mine for kind in line["worst"]})
        most = {kind: max(tuple(line["worst"][kind]) for line in mine if kind in line["worst"]) for kind in kinds}
        yield f"{precision}: {len(mine)} cases, {sum(bool(line['wrong']) for line in mine)} with a check that does not pass"
        yield from (f"  {kind}: at most {share:.2f} of its limit ({title})" for kind, (share, title) in most.items())
        yield from (f"  {line['case']}: {said}" for line in mine for said in line["wrong"][:3])


def main() -> None:
    """Run, and report all that OUT.jsonl has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="1:11", help="first:behind the last")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--layouts", default=LAYOUTS)
    parser.add_argument("--steps", default="2")
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    first, _, behind = given.seeds.partition(":")
    numbers = [word for number in given.set for word in ("--set", number)]
    launch.prepare("gloo", steps=True)
    launch.warm_up()
    REFERENCES.warm_up()
    for seed in range(int(first), int(behind)):
        for precision in given.precisions.split(","):
            words = ["--layouts", given.layouts, "--precision", precision, "--seed", str(seed), "--steps", given.steps]
            with given.out.open("a") as file:
                for line in of_seed(words + numbers):
                    file.write(json.dumps(line) + "\n")
    print("\n".join(report([json.loads(line) for line in given.out.read_text().splitlines()])))


if __name__ == "__main__":
    main()
