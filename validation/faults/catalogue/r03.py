"""Experts outside of the chosen groups are masked with 0 in place of minus infinity.

It shows where an expert that must be taken has a negative biased score: with 8 experts in 4 groups both of a chosen group
must be, and a few tokens in a thousand have one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="experts outside of the chosen groups are masked with 0 in place of minus infinity",
    sources=(
        f"{HF}/issues/45440",
        "https://github.com/vllm-project/vllm/pull/13474",
    ),
    first="layers.{moe}.moe.router.experts",
    numbers=(("n_routed_experts", "8"),),
    layers=4,
    seq_length=512,
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def chosen(scores: Any, topk: int, num_tokens: int, num_experts: int, num_groups: int, group_topk: int) -> Any:
            grouped = scores.view(num_tokens, num_groups, -1)
            best = grouped.topk(topk // group_topk, dim=-1)[0].sum(-1).topk(group_topk, dim=-1)[1]
            allowed = torch.zeros_like(grouped).scatter(1, best.unsqueeze(-1).expand(-1, -1, grouped.shape[-1]), 1).flatten(1)
            return torch.topk(scores.masked_fill(allowed == 0, 0.0), k=topk, dim=-1)

        return chosen

    replace("megatron.core.transformer.moe.moe_utils", "group_limited_topk", made)
