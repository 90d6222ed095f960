"""The router's weights are cast to bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the router's weights are cast to bfloat16",
    sources=(f"{CORE}/commit/0f058666a8",),
    first="layers.{moe}.moe.router.weights",
    precision="bf16",
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def routed(*given: Any, **keywords: Any) -> Any:
            weights, chosen = sound(*given, **keywords)
            return weights.to(torch.bfloat16), chosen

        return routed

    replace("megatron.core.transformer.moe.router", "topk_routing_with_score_function", made)
