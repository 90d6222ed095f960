"""The router's weights are rounded to bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the router's weights are rounded to bfloat16",
    sources=(f"{CORE}/pull/2214",),
    first="layers.{moe}.moe.router.weights",
    precision="bf16",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def routed(*given: Any, **keywords: Any) -> Any:
            weights, chosen = sound(*given, **keywords)
            return rounded(weights), chosen

        return routed

    replace("megatron.core.transformer.moe.router", "topk_routing_with_score_function", made)
