"""The query norm's gradient is multiplied by the tensor-parallel degree.

What megatron-core 0.16.1 does by itself without sequence parallelism (docs/findings/latents-without-sequence-
parallelism.md), put where it does not.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import after_finalizing, latent_norm, layers

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="the query norm's gradient is multiplied by the tensor-parallel degree",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/distributed/finalize_model_grads.py",),
    first="gradients/model.layers.{last}.self_attn.q_a_layernorm.weight",
    kind="backward",
    layouts=("tp2",),
    cause="tensor parallelism",
)


def built(case: Case, model: Any) -> None:
    def twice(wrapped: Any) -> None:
        for found in layers([chunk.module for chunk in wrapped]):
            latent_norm(found, "q")[1].main_grad *= case.layout.tp

    after_finalizing(twice)
