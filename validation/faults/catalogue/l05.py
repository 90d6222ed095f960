"""The first step of a resumed run has the weight decay of the schedule's beginning.

The scheduler writes it to the parameter groups before it has read its own numbers.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the first step of a resumed run has the weight decay of the schedule's beginning",
    sources=(
        f"{CORE}/pull/7468",
        f"{CORE}/pull/5212",
    ),
    first="steps/2/weight_decays",
    kind="step",
    layouts=("single+step-resume-step+scheduler.start_wd=0.0+scheduler.wd_incr_style=linear",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_stale)


def _stale(optimizer: Any) -> None:
    for part in optimizer.parts:
        for group in part.optimizer.param_groups:
            group["weight_decay"] = optimizer.scheduler.start_wd * group["wd_mult"]
