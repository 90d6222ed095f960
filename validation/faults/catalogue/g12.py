"""The loads that move the expert bias are not set to zero after a step."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the loads that move the expert bias are not set to zero after a step",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/distributed/finalize_model_grads.py",),
    first="steps/2/value/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    kind="step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    replace(
        "megatron.core.distributed.finalize_model_grads",
        "reset_model_temporary_tensors",
        lambda sound: lambda *given, **keywords: None,
    )
