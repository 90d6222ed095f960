"""The loss scale of a resumed run begins again."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the loss scale of a resumed run begins again",
    sources=(
        "https://github.com/facebookresearch/metaseq/issues/3",
        "https://github.com/pytorch/torchtitan/issues/146",
    ),
    first="steps/3/loss_scale",
    kind="step",
    layouts=("single+step2-resume-step",),
    cause="option +step2-resume-step",
    precision="fp16",
    steps=3,
    absent=(("bf16", "bf16 has no loss scale"),),
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_begun_again)


def _begun_again(optimizer: Any) -> None:
    for part in optimizer.parts:
        part.grad_scaler._scale.fill_(part.config.initial_loss_scale)
