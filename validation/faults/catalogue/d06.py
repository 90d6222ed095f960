"""The balancing loss takes its scores in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the balancing loss takes its scores in bfloat16",
    sources=(f"{CORE}/pull/2765",),
    first="layers.{moe}.moe.balancing",
    layouts=("single+seqaux+mean",),
    precision="fp32",
    cause="option +seqaux, precision",
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def scored(logits: Any, *rest: Any, **keywords: Any) -> Any:
            chosen, scores = sound(logits.to(torch.bfloat16), *rest, **keywords)
            return chosen, scores.to(logits.dtype)

        return scored

    replace("megatron.core.transformer.moe.router", "compute_routing_scores_for_aux_loss", made)
