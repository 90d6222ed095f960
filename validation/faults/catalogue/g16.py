"""The gradient norm counts a split weight's part on the first tensor-parallel rank only.

Upstream it is the learnable offset of an attention sink, split by heads and without the mark of a split parameter.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the gradient norm counts a split weight's part on the first tensor-parallel rank only",
    sources=(f"{CORE}/issues/7452", f"{CORE}/pull/7530"),
    first="steps/1/gradient_norm",
    kind="step",
    layouts=("tp2",),
    steps=1,
    cause="tensor parallelism",
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        found.self_attention.linear_proj.weight.tensor_model_parallel = False
