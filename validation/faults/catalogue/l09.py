"""A resumed run makes its masters of the bf16 weights.

What bf16 has rounded away is lost. A small learning rate keeps what the two steps may differ by below that.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="a resumed run makes its masters of the bf16 weights",
    sources=(
        "https://github.com/radixark/miles/pull/3143",
        "https://github.com/NVIDIA/apex/pull/42",
        "https://github.com/TensorAuto/OpenTau/issues/185",
    ),
    first="steps/2/master/model.embed_tokens.weight",
    kind="step",
    layouts=("single+step-resume-step+optimizer.lr=0.0001",),
    cause="option +step-resume-step",
    precision="bf16",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(lambda optimizer: optimizer.theirs.reload_model_params())
