"""A resumed schedule counts the steps before it twice.

It is loaded, and then advanced by the steps that it has counted already.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="a resumed schedule counts the steps before it twice",
    sources=(
        "https://github.com/THUDM/slime/issues/1546",
        "https://github.com/radixark/miles/pull/1627",
    ),
    first="steps/2/learning_rates",
    kind="step",
    layouts=("single+step-resume-step+scheduler.lr_decay_style=linear",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(lambda optimizer: optimizer.scheduler.step(optimizer.scheduler.num_steps))
