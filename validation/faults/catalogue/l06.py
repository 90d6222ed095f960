"""A resumed AdamW counts its steps from zero.

It corrects the bias of its moments as in the first step.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming, states

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="a resumed AdamW counts its steps from zero",
    sources=(
        "https://github.com/deepspeedai/DeepSpeed/pull/4396",
        "https://github.com/microsoft/Megatron-DeepSpeed/issues/248",
    ),
    first="steps/2/value/model.embed_tokens.weight",
    kind="step",
    layouts=("single+step-resume-step",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_count_again)


def _count_again(optimizer: Any) -> None:
    for state in states(optimizer):
        if "step" in state:
            state["step"].zero_()
    for group in (group for part in optimizer.parts for group in part.optimizer.param_groups):
        if "step" in group:  # Transformer Engine's AdamW counts the steps of a group
            group["step"] = 0
