"""Parameter groups of a resumed run get each other's settings.

They are taken in the order in which they were saved.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="parameter groups of a resumed run get each other's settings",
    sources=(f"{CORE}/issues/1515",),
    first="steps/2/weight_decays",
    kind="step",
    layouts=("single+step-resume-step+scheduler.lr_decay_style=linear",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_exchanged)


def _exchanged(optimizer: Any) -> None:
    for part in optimizer.parts:
        groups = part.optimizer.param_groups
        for group, decay in zip(groups, [group["wd_mult"] for group in reversed(groups)], strict=True):
            group["wd_mult"] = decay
    optimizer.scheduler.step(0)
