"""The router's weights are taken from the biased scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the router's weights are taken from the biased scores",
    sources=(
        f"{HF}/issues/41647",
        "https://github.com/vllm-project/vllm/pull/12002",
    ),
    first="layers.{moe}.moe.router.weights",
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def routed(logits: Any, *rest: Any, **keywords: Any) -> Any:
            _, chosen = sound(logits, *rest, **keywords)
            scores = (torch.sigmoid(logits.float()) + keywords["expert_bias"]) * chosen
            return scores / scores.sum(-1, keepdim=True) * keywords["scaling_factor"], chosen

        return routed

    replace("megatron.core.transformer.moe.router", "topk_routing_with_score_function", made)
