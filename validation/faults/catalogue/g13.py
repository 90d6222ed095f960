"""The gradient norm counts what tensor-parallel ranks hold in copies once for each of them."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the gradient norm counts what tensor-parallel ranks hold in copies once for each of them",
    sources=(f"{CORE}/pull/5916",),
    first="steps/1/gradient_norm",
    kind="step",
    layouts=("tp2",),
    steps=1,
    cause="tensor parallelism",
)


def configure(case: Case, config: Any) -> None:
    replace(
        "megatron.core.tensor_parallel", "param_is_not_tensor_parallel_duplicate", lambda sound: lambda *given, **keywords: True
    )
