"""Known upstream bugs of single switches, taken out of a rank (validation.candidate.mends says how, and holds the others)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.moe.router import TopKRouter

from validation.case.case import Case


def logits_gradient_as_it_is(case: Case, tokens: Callable[[], int]) -> None:
    """The fused cross entropy's gradient stays in the type of its softmax, and is not cast to bf16."""
    names = vars(importlib.import_module("megatron.core.fusions.fused_cross_entropy"))
    calculate = names["calculate_gradients"]

    def calculated(softmax: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        names["torch"] = _TorchWithAnotherBf16(softmax.dtype)
        try:
            gradient: torch.Tensor = calculate(softmax, *given, **named)
            return gradient
        finally:
            names["torch"] = torch

    names["calculate_gradients"] = calculated


class _TorchWithAnotherBf16:
    """torch, in which `bfloat16` is another type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.bfloat16 = dtype

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


_UNFUSED = "NVTE_UNFUSED_ATTN"
"""The variable by which Transformer Engine is told whether its unfused attention may be chosen; without it, it may."""


def mask_is_taken(case: Case, tokens: Callable[[], int]) -> None:
    """Transformer Engine is asked for attention under the mask that it is given, and not for a causal one.

    Of its kinds of attention only the unfused one takes any mask, so that it is allowed for the call where another one has been
    chosen: megatron-core asks for the variable when it builds a model. The kernel of the first run is not judged by this.
    """
    attention: Any = importlib.import_module("megatron.core.extensions.transformer_engine").TEDotProductAttention
    forward = attention.forward

    def under_mask(
        self: Any, query: Any, key: Any, value: Any, attention_mask: Any, attn_mask_type: Any, *given: Any, **named: Any
    ) -> Any:
        if attention_mask is None or attn_mask_type != AttnMaskType.causal:
            return forward(self, query, key, value, attention_mask, attn_mask_type, *given, **named)
        before, os.environ[_UNFUSED] = os.environ.get(_UNFUSED), "1"
        try:
            return forward(self, query, key, value, attention_mask, AttnMaskType.arbitrary, *given, **named)
        finally:
            if before is None:
                del os.environ[_UNFUSED]
            else:
                os.environ[_UNFUSED] = before

    attention.forward = under_mask


def gradients_read_when_computed(case: Case, tokens: Callable[[], int]) -> None:
    """A weight whose gradient comes after the backward pass is added up when its module has computed it."""
    begun = DistributedDataParallel.__init__

    def init(self: DistributedDataParallel, config: Any, ddp_config: Any, *given: Any, **named: Any) -> None:
        begun(self, config, replace(ddp_config, delay_wgrad_compute=True), *given, **named)

    DistributedDataParallel.__init__ = init


def loads_before_capacity(case: Case, tokens: Callable[[], int]) -> None:
    """Loads that are counted in what dropping and filling up leave of a router's choice are those of the choice.

    Loads of anything else stay.
    """
    names = vars(importlib.import_module("megatron.core.transformer.moe.router"))
    drop, apply = names["apply_router_token_dropping"], TopKRouter._apply_expert_bias
    chosen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def dropping(probs: torch.Tensor, routing_map: torch.Tensor, *given: Any, **named: Any) -> Any:
        found = drop(probs, routing_map, *given, **named)
        chosen[:] = [(found[1], routing_map)]
        return found

    def applied(self: TopKRouter, routing_map: torch.Tensor, *given: Any, **named: Any) -> Any:
        left, own = chosen.pop() if chosen else (None, None)
        return apply(self, own if routing_map is left else routing_map, *given, **named)

    names["apply_router_token_dropping"] = dropping
    TopKRouter._apply_expert_bias = applied


def balanced_by_scores(case: Case, tokens: Callable[[], int]) -> None:
    """Balancing losses that are handed the router's own choice take the experts with the largest scores in its place."""
    names = vars(importlib.import_module("megatron.core.transformer.moe.router"))
    choose = names["topk_softmax_with_capacity"]
    chosen: dict[str, torch.Tensor] = {}

    def choosing(*given: Any, **named: Any) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = choose(*given, **named)
        chosen.update(routing_map=found[1], tokens_per_expert=found[2])
        return found

    def balancing(sound: Callable[..., torch.Tensor], argument: str) -> Callable[..., torch.Tensor]:
        def balanced(probs: torch.Tensor, topk: int, **named: Any) -> torch.Tensor:
            if named[argument] is chosen[argument]:
                largest = torch.zeros_like(probs, dtype=torch.bool).scatter(1, probs.topk(topk, dim=1).indices, value=True)
                named[argument] = largest if argument == "routing_map" else largest.sum(dim=0)
            return sound(probs=probs, topk=topk, **named)

        return balanced

    names["topk_softmax_with_capacity"] = choosing
    for loss, argument in _COUNTED_BY.items():
        names[loss] = balancing(names[loss], argument)


_COUNTED_BY = {
    "sequence_load_balancing_loss_func": "routing_map",
    "switch_load_balancing_loss_func": "tokens_per_expert",
}
"""What each balancing loss of 0.12 counts the experts by."""


def outputs_kept_while_sent(case: Case, tokens: Callable[[], int]) -> None:
    """What is sent is a second tensor of the same memory, which the request keeps until it has gone."""
    names = vars(importlib.import_module("megatron.core.pipeline_parallel.p2p_communication"))
    send = names["_p2p_ops"]

    def sent(**given: Any) -> Any:
        kept = {name: given[name].detach() for name in ("tensor_send_prev", "tensor_send_next") if given[name] is not None}
        return send(**{**given, **kept})

    names["_p2p_ops"] = sent
