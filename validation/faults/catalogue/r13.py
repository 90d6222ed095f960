"""The balancing loss is made of softmax scores though the router's are sigmoids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the balancing loss is made of softmax scores though the router's are sigmoids",
    sources=(f"{CORE}/commit/e85385a761",),
    first="layers.{moe}.moe.balancing",
    layouts=("single+seqaux+mean",),
    cause="option +seqaux",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda logits, topk, score_function, **keywords: sound(logits, topk, "softmax", **keywords)

    replace("megatron.core.transformer.moe.router", "compute_routing_scores_for_aux_loss", made)
