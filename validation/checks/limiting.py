"""What a tensor of a result may differ by, in the precision of its case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.case.optimizers import FIRST
from validation.case.steps import GRADIENT, STEPS
from validation.compare.limits import IN_FP64, Limits, above_floor

if TYPE_CHECKING:
    from validation.run.result import Result


def limits_of(result: Result, name: str) -> Limits:
    """Those of the precision, for a tensor by the name in the ranks' reports. Raises LookupError for one without a floor."""
    if result.case.precision == "fp64":
        return IN_FP64
    if name not in result.facts.get("floor", {}):
        raise LookupError(f"the reference has no floor for {name}; give the check limits of its own")
    return _above_floor(result, name, by_formula=_by_formula(result, name))


def _above_floor(result: Result, name: str, *, by_formula: bool = False) -> Limits:
    case, facts = result.case, result.facts
    magnitude, turned = facts["magnitude"][name], facts.get("turned", {}).get(name, 0.0)
    fp8, floor = case.training.fp8 != "none", facts["floor"][name]
    return above_floor(floor, case.precision, magnitude, turned, fp8=fp8, isolated=case.isolated, by_formula=by_formula)


def _by_formula(result: Result, name: str) -> bool:
    """Whether it is a second moment that the formula has judged, and other checks decide about all gradients in it."""
    if name not in result.by_formula:
        return False
    last, _, parameter = name.removeprefix(STEPS).split("/", 2)
    later = [f"{STEPS}{step}/{GRADIENT}/{parameter}" for step in range(2, int(last) + 1)]
    return not any(_above_floor(result, one).undecided for one in (f"{STEPS}1/{FIRST}/{parameter}", *later))
