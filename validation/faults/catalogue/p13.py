"""An MTP layer's router is left out when the expert biases move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="an MTP layer's router is left out when the expert biases move",
    sources=("https://github.com/pytorch/torchtitan/pull/4494",),
    first="steps/1/value/model.layers.2.mlp.gate.e_score_correction_bias",
    kind="step",
    layouts=("single+mtp",),
    steps=1,
    cause="option +mtp, optimizer step",
    needs="+mtp",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def updated(model: Any, *rest: Any, **keywords: Any) -> None:
            named = (pair for chunk in model for pair in chunk.named_buffers())
            kept = [(buffer, buffer.clone()) for name, buffer in named if "mtp." in name and name.endswith("expert_bias")]
            sound(model, *rest, **keywords)
            for buffer, before in kept:
                buffer.copy_(before)

        return updated

    replace("megatron.core.distributed.finalize_model_grads", "_update_router_expert_bias", made)
