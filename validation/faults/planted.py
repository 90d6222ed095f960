"""The planted defects themselves, put in inside the rank. A rank is a process of its own: what is changed here ends with it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import mappings
from megatron.core.transformer import multi_latent_attention

from validation.case.case import Case
from validation.case.errors import UsageError

MSCALE = 1.25
"""Times yarn's mscale, which enters squared: 1.56, about what V3 loses with its own mscale."""
_EXPERT = re.compile(r"(?<=local_experts\.)\d+|(?<=linear_fc[12]\.weight)\d+$")

_INSTEAD = "--no-self-test runs without planted defects"


def _replace(module: Any, name: str, made: Callable[[Any], Any]) -> None:
    """Put what `made` makes of a module's function in its place."""
    vars(module)[name] = made(vars(module)[name])


def _layer(model: Any, number: int) -> Any:
    """The layer of that number, counted from 0 over the whole model; every rank has it, in layouts without stages."""
    return next(layer for chunk in model for layer in chunk.decoder.layers if layer.layer_number - 1 == number)


class AttentionScale:
    """The softmax scale is made with a wrong mscale; the rotary embedding keeps its own."""

    @staticmethod
    def configure(case: Case, config: Any) -> None:
        """Before the attention layers work out their scale."""
        _replace(multi_latent_attention, "_yarn_get_mscale", lambda sound: lambda *given: MSCALE * sound(*given))


class RotatedHalves:
    """Rotary positions turn an element of the first half with one of the second, where neighbours belong together."""

    @staticmethod
    def configure(case: Case, config: Any) -> None:
        """Before anything is rotated."""

        def halves(sound: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def rotated(tensor: torch.Tensor, *rest: Any, **keywords: Any) -> torch.Tensor:
                return sound(torch.stack(tensor.chunk(2, dim=-1), dim=-1).flatten(-2), *rest, **keywords)

            return rotated

        _replace(multi_latent_attention, "apply_rotary_pos_emb", halves)


class RouterBias:
    """The bias that only chooses experts prefers the one that it should prefer least, whatever the biases are."""

    @staticmethod
    @torch.no_grad()
    def loaded(case: Case, model: Any) -> None:
        """After the weights have been compared."""
        bias = _layer(model, case.model.moe_layers[0]).mlp.router.expert_bias
        bias[bias.argmin()] = bias.max() + 1


class ExpertOrder:
    """Every expert of a rank has the weights of its neighbour, the last those of the first: all tokens are concerned."""

    @staticmethod
    @torch.no_grad()
    def loaded(case: Case, model: Any) -> None:
        """After the weights have been compared."""
        same: dict[str, dict[int, torch.Tensor]] = defaultdict(dict)
        for name, weight in _layer(model, case.model.moe_layers[0]).mlp.experts.named_parameters():
            if found := _EXPERT.search(name):
                same[_EXPERT.sub("", name)][int(found.group())] = weight
        if not same:
            raise UsageError(f"this implementation has no weights of single experts to plant a defect in; {_INSTEAD}")
        for weights in same.values():
            ordered = [weights[expert] for expert in sorted(weights)]
            first = ordered[0].clone()
            for weight, following in zip(ordered, [*ordered[1:], first], strict=True):
                weight.copy_(following)


class LostReduction:
    """Each rank goes on with its own part of the sum."""

    @staticmethod
    def built(case: Case, model: Any) -> None:
        """Layer 0's output projection computes without its collective, whoever implements it."""
        projection = _layer(model, 0).self_attention.linear_proj
        sound = projection.forward

        def forward(*given: Any, **keywords: Any) -> Any:
            with _own_part_only():
                return sound(*given, **keywords)

        projection.forward = forward


@contextmanager
def _own_part_only() -> Iterator[None]:
    """Within it sums over ranks leave each rank what it has."""

    def scatter(output: torch.Tensor, whole: torch.Tensor, *_: Any, group: Any = None, **__: Any) -> None:
        output.copy_(whole.chunk(dist.get_world_size(group))[dist.get_rank(group)])

    places: list[tuple[Any, str, Any]] = [
        (dist, "all_reduce", lambda *given, **keywords: None),
        (dist, "reduce_scatter_tensor", scatter),
        (mappings, "dist_reduce_scatter_func", scatter),  # the same, as megatron-core names it when it is imported
    ]
    kept = [(module, name, vars(module)[name]) for module, name, _ in places if name in vars(module)]
    for module, name, lost in places:
        vars(module)[name] = lost
    try:
        yield
    finally:
        for module, name, sound in kept:
            vars(module)[name] = sound


class UnmarkedNorm:
    """The last layer's input norm is not marked as seeing a part of the sequence only."""

    @staticmethod
    def loaded(case: Case, model: Any) -> None:
        """Before gradients are finalised, which is when megatron-core reads the mark."""
        weight = _layer(model, case.model.num_hidden_layers - 1).input_layernorm.weight
        if not getattr(weight, "sequence_parallel", False):
            raise UsageError(f"this implementation does not mark the input norm's weight as sequence-parallel; {_INSTEAD}")
        weight.sequence_parallel = False


class ForgottenBuckets:
    """The gradients of all parameters that every data-parallel rank holds stay each rank's own."""

    @staticmethod
    def wrapped(case: Case, model: Any) -> None:
        """Once there are buckets."""
        for chunk in model:
            chunk.bucket_groups.clear()
