"""A resumed AdamW begins with moments of zero."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming, states

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="a resumed AdamW begins with moments of zero",
    sources=(
        "https://github.com/areal-project/AReaL/pull/1468",
        "https://github.com/KempnerInstitute/KempnerForge/pull/115",
    ),
    first="steps/2/exp_avg/model.embed_tokens.weight",
    kind="step",
    layouts=("single+step-resume-step",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_forget)


def _forget(optimizer: Any) -> None:
    for state in states(optimizer):
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()
