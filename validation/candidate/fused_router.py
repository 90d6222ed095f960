"""Transformer Engine's fused router under observation: one kernel makes scores, choice and weights of the logits.

Nothing between is a tensor, so that the scores cannot be seen. What comes out can: each token's experts and their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.transformer.moe import moe_utils

from validation.compare.observe import Router

FUSED = "fused_topk_with_score_function"
"""megatron-core's name for the kernel (since 0.14), by which its routers call it. It is None without Transformer Engine."""


@contextmanager
def seen_fused(choose: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Within it the experts that the kernel chooses, [tokens, k], go through `choose`, which returns those to go on with.

    For tokens that are to have other experts, megatron-core's unfused function computes the weights. All others keep the
    kernel's. A kernel that chooses too few or too many experts for a token is left alone: its map is compared as it is.
    """
    names = vars(moe_utils)
    fused = names.get(FUSED)
    if fused is None:
        yield
        return

    def seen(**given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        weights, chosen = fused(**given)
        k = given["topk"]
        if not bool((chosen.sum(-1) == k).all()):
            return weights, chosen
        experts = chosen.nonzero()[:, -1].view(-1, k)
        wanted = choose(experts)
        return (weights, chosen) if wanted is experts else _with_experts(wanted, weights, chosen, given)

    names[FUSED] = seen
    try:
        yield
    finally:
        names[FUSED] = fused


def _with_experts(
    wanted: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor, given: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and map, [tokens, experts], with the unfused function's rows for tokens that are to have other experts."""
    with Router(chosen.shape[-1], lambda scores: scores, lambda own, by: wanted):
        others, theirs = moe_utils.topk_routing_with_score_function(**given, fused=False)
    same = (theirs == chosen).all(-1, keepdim=True)
    return torch.where(same, weights, others.to(weights.dtype)), torch.where(same, chosen, theirs)
