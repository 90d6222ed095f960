"""The expert bias is added before the sigmoid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the expert bias is added before the sigmoid",
    sources=(f"{CORE}/commit/eec34ff3ae",),
    first="layers.{moe}.moe.router.scores",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def routed(logits: Any, *rest: Any, **keywords: Any) -> Any:
            return sound(logits + keywords.pop("expert_bias"), *rest, **keywords)

        return routed

    replace("megatron.core.transformer.moe.router", "topk_routing_with_score_function", made)
