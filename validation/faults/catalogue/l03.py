"""A resumed schedule begins again."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="a resumed schedule begins again",
    sources=("https://github.com/verl-project/verl/issues/7953",),
    first="steps/2/learning_rates",
    kind="step",
    layouts=("single+step-resume-step+scheduler.lr_decay_style=linear",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_begin)


def _begin(optimizer: Any) -> None:
    optimizer.scheduler.num_steps = 0
    optimizer.scheduler.step(0)
