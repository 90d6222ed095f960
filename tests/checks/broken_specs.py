"""Layer specs of a model with one defect each, put in inside the rank that builds it. Every one must be seen.

Each function is given as `--implementation tests.checks.broken_specs:NAME`. Ranks are processes of their own, so what is
changed here ends with them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import gpt_model
from megatron.core.tensor_parallel.layers import RowParallelLinear
from megatron.core.tensor_parallel.mappings import scatter_to_sequence_parallel_region
from megatron.core.transformer import multi_latent_attention, multi_token_prediction
from megatron.core.transformer.moe import router, token_dispatcher
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.candidate import build, load, step
from validation.candidate.modules import RMSNorm
from validation.candidate.spec import block_spec
from validation.candidate.weights import Holding, tensors

finalize_gradients = importlib.import_module("megatron.core.distributed.finalize_model_grads")
"""The module; the package has a function of the same name."""


def _replace(module: ModuleType, name: str, made: Callable[[Any], Any]) -> None:
    """Put what `made` makes of a module's function in its place."""
    vars(module)[name] = made(vars(module)[name])


def _sound(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    return block_spec("local", config, vp_stage)


def _tensor(chunks: Any, name: str) -> Any:
    """The parameter of that name; every rank has it, in layouts without pipeline stages."""
    return next(tensor for chunk in chunks for known, tensor in tensors(chunk) if known == name)


EXPERT = "decoder.layers.1.mlp.experts.local_experts.5.linear_fc1.weight"


def gate_and_up_swapped(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """One expert of layer 1 is loaded with gate and up in each other's place."""

    def swapped(sound: Callable[..., None]) -> Callable[..., None]:
        @torch.no_grad()
        def load_swapped(chunks: Any, *rest: Any) -> None:
            sound(chunks, *rest)
            weight = _tensor(chunks, EXPERT)
            weight.copy_(torch.cat(weight.chunk(2)[::-1]))

        return load_swapped

    _replace(load, "load", swapped)
    return _sound(config, vp_stage)


def mapped_wrongly(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The mapping itself takes gate for up in one expert of layer 1: reading back what was loaded proves nothing then."""

    def swapped(sound: Callable[..., list[Holding]]) -> Callable[..., list[Holding]]:
        def holdings(name: str, *rest: Any) -> list[Holding]:
            parts = sound(name, *rest)
            if name != EXPERT:
                return parts
            gate, up = parts
            return [replace(gate, parameter=up.parameter), replace(up, parameter=gate.parameter)]

        return holdings

    _replace(load, "holdings", swapped)
    return _sound(config, vp_stage)


def yarn_scale_dropped(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The softmax scale goes without yarn's mscale; the rotary embedding keeps its own."""
    _replace(multi_latent_attention, "_yarn_get_mscale", lambda sound: lambda *args: 1.0)
    return _sound(config, vp_stage)


class Unreduced(RowParallelLinear):
    """A row-parallel linear layer whose ranks keep their own partial sums."""

    def forward(self, input_: torch.Tensor) -> Any:
        """This rank's product, cut along the sequence as the sum over the ranks would be."""
        self.explicit_expert_comm = True  # makes megatron-core leave the sum to somebody else
        output, bias = super().forward(input_)
        return scatter_to_sequence_parallel_region(output, group=self.tp_group), bias


def reduction_lost(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Layer 0's attention output is not summed over the tensor-parallel ranks."""
    block = _sound(config, vp_stage)
    block.layer_specs[0].submodules.self_attention.submodules.linear_proj = Unreduced
    return block


def nan_in_one_gradient(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """One element of one gradient is NaN on the second tensor-parallel rank."""

    def spoiled(sound: Callable[..., None]) -> Callable[..., None]:
        def finalize(model: Any, *args: Any, **kwargs: Any) -> None:
            sound(model, *args, **kwargs)
            weight = _tensor([chunk.module for chunk in model], "decoder.layers.1.self_attention.linear_proj.weight")
            if parallel_state.get_tensor_model_parallel_rank() == 1:
                weight.main_grad[3, 5] = float("nan")

        return finalize

    _replace(build, "finalize_model_grads", spoiled)
    return _sound(config, vp_stage)


def _unmark(name: str) -> None:
    """Have a parameter not marked as seeing a part of the sequence only, when gradient buffers are made."""

    def unmarked(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrap(chunks: Any, case: Any) -> Any:
            weight = _tensor(chunks, name)
            assert weight.sequence_parallel
            weight.sequence_parallel = False
            return sound(chunks, case)

        return wrap

    _replace(build, "wrap", unmarked)


def gradient_reduction_lost(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Layer 1's router weight is not marked as seeing a part of the sequence only."""
    _unmark("decoder.layers.1.mlp.router.weight")
    return _sound(config, vp_stage)


def norm_unmarked(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Layer 1's input norm is not marked as seeing a part of the sequence only."""
    _unmark("decoder.layers.1.input_layernorm.weight")
    return _sound(config, vp_stage)


def loss_not_scaled_by_cp(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The mean loss of a micro-batch does not make up for the average over context-parallel ranks."""

    def unscaled(sound: Callable[..., Any]) -> Callable[..., Any]:
        def add(self: Any, losses: Any, mask: Any) -> Any:
            total, *rest = sound(self, losses, mask)
            return total / config.context_parallel_size, *rest

        return add

    setattr(step.Losses, "add", unscaled(step.Losses.add))  # noqa: B010 - mypy knows no assignment to a method
    return _sound(config, vp_stage)


def expert_gradients_over_the_wrong_group(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Gradients of experts are summed over the data-parallel ranks, whose experts are others."""

    def regrouped(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrap(chunks: Any, case: Any) -> Any:
            wrapped = sound(chunks, case)
            for buckets in (buckets for chunk in wrapped for buckets in chunk.expert_parallel_bucket_groups):
                group = parallel_state.get_data_parallel_group(with_context_parallel=True)
                buckets.data_parallel_group = buckets.intra_distributed_optimizer_instance_group = group
            return wrapped

        return wrap

    _replace(build, "wrap", regrouped)
    return _sound(config, vp_stage)


def one_bucket_never_reduced(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The bucket of all parameters that every data-parallel rank holds keeps each rank's own gradients."""

    def forgetful(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrap(chunks: Any, case: Any) -> Any:
            wrapped = sound(chunks, case)
            for chunk in wrapped:
                chunk.bucket_groups.clear()
            return wrapped

        return wrap

    _replace(build, "wrap", forgetful)
    return _sound(config, vp_stage)


def expert_bias_from_own_tokens(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Each data-parallel rank moves the expert bias by the loads that it sees itself."""

    def alone(sound: Callable[..., Any]) -> Callable[..., Any]:
        def updated(tokens: torch.Tensor, bias: torch.Tensor, rate: float, **groups: Any) -> torch.Tensor:
            return bias + torch.sign(tokens.mean(-1, keepdim=True) - tokens) * rate

        return updated

    _replace(importlib.import_module("megatron.core.distributed.finalize_model_grads"), "get_updated_expert_bias", alone)
    return _sound(config, vp_stage)


def norm_of_copies(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The gradient norm counts what tensor-parallel ranks hold in copies once for each of them."""
    _replace(tensor_parallel, "param_is_not_tensor_parallel_duplicate", lambda sound: lambda *args, **kwargs: True)
    return _sound(config, vp_stage)


def balance_of_own_tokens(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Each tensor-parallel rank balances the tokens that it sees itself, as if they were the whole sequence."""

    def alone(sound: Callable[..., Any]) -> Callable[..., Any]:
        def counted(routing_map: torch.Tensor, **keywords: Any) -> Any:
            counts, local, total = sound(routing_map=routing_map, **keywords)
            own = routing_map.sum(dim=0) * keywords["reduce_group"].size()
            return own.to(counts), local, total

        return counted

    _replace(router, "get_tokens_per_expert_and_token_count", alone)
    return _sound(config, vp_stage)


def _biased(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have the routers add what `change` makes of their bias; the parameter stays what the checkpoint has."""

    def biased(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, expert_bias, **keywords: sound(*given, expert_bias=change(expert_bias), **keywords)

    _replace(router, "topk_routing_with_score_function", biased)


def bias_rounded_where_it_is_used(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The routers add their bias as bfloat16 has it."""
    _biased(lambda bias: bias.to(torch.bfloat16).to(bias.dtype))
    return _sound(config, vp_stage)


def bias_too_small_where_it_is_used(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The routers add seven tenths of their bias."""
    _biased(lambda bias: bias * 0.7)
    return _sound(config, vp_stage)


def mtp_mask_not_rolled(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The MTP layer's losses count where the main model's do, one position too early."""

    def unrolled(sound: Callable[..., Any]) -> Callable[..., Any]:
        def roll(tensor: torch.Tensor, **keywords: Any) -> Any:
            return (tensor, tensor.sum()) if tensor.is_floating_point() else sound(tensor, **keywords)

        return roll

    of_losses = gpt_model if "roll_tensor" in vars(gpt_model) else multi_token_prediction  # since 0.17
    _replace(of_losses, "roll_tensor", unrolled)
    return _sound(config, vp_stage)


def mtp_embedding_not_reduced(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The copy of the embedding that the MTP layer has on the last pipeline stage keeps its own gradient."""
    _replace(finalize_gradients, "_allreduce_word_embedding_grads", lambda sound: lambda *args, **kwargs: None)
    return _sound(config, vp_stage)


def mtp_left_out_of_a_step(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The loads of the MTP layer leave its filler out, and the gradient norm all of its parameters."""

    def without_filler(sound: Callable[..., None]) -> Callable[..., None]:
        def count(self: Any, routing_map: torch.Tensor, **keywords: Any) -> None:
            of_mtp = getattr(self, "is_mtp_layer", self.layer_number > config.num_layers)  # said since 0.17
            # The last position of both sequences of a micro-batch.
            sound(self, routing_map[:-2] if of_mtp else routing_map, **keywords)

        return count

    def unnoticed(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrap(chunks: Any, case: Any) -> Any:
            for chunk in chunks:
                for parameter in chunk.mtp.parameters():
                    parameter.shared = True  # as a copy is, which the norm leaves to its original
            return sound(chunks, case)

        return wrap

    routers: Any = router.TopKRouter
    routers._apply_expert_bias = without_filler(routers._apply_expert_bias)
    _replace(build, "wrap", unnoticed)
    return _sound(config, vp_stage)


def dispatched_in_the_wrong_order(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Every expert is given the tokens, in number and with weights as they should be, each shifted by one place."""

    def shifted(sound: Callable[..., Any]) -> Callable[..., Any]:
        def dispatch_postprocess(*given: Any) -> Any:
            tokens, *rest = sound(*given)
            return tokens.roll(1, dims=0), *rest

        return dispatch_postprocess

    dispatcher = token_dispatcher.MoEAlltoAllTokenDispatcher
    setattr(dispatcher, "dispatch_postprocess", shifted(dispatcher.dispatch_postprocess))  # noqa: B010 - as above
    return _sound(config, vp_stage)


def layers(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """No defect: a user's spec whose latent norms have the model's epsilon, as megatron-core's own have."""
    return _sound(config, vp_stage)


class _LatentNorm(RMSNorm):
    """A latent norm as transformers has it: its epsilon is no number of the checkpoint's."""

    epsilon = 1e-6

    def __init__(self, config: MLATransformerConfig, hidden_size: int, eps: float, **rest: Any) -> None:
        super().__init__(config, hidden_size, eps=self.epsilon, **rest)


class _OtherLatentNorm(_LatentNorm):
    epsilon = 1e-3


def _with_latent_norms(block: TransformerBlockSubmodules, norm: type[RMSNorm]) -> TransformerBlockSubmodules:
    for layer in block.layer_specs:
        attention = layer.submodules.self_attention.submodules
        attention.q_layernorm = attention.kv_layernorm = norm
    return block


def huggingface_latent_norms(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """No defect: what docs/findings/latent-norm-epsilon.md shows."""
    return _with_latent_norms(_sound(config, vp_stage), _LatentNorm)


def other_latent_norms(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The latents' norms have an epsilon that is neither the model's nor transformers'."""
    return _with_latent_norms(_sound(config, vp_stage), _OtherLatentNorm)


def raises(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """The user's own code has a mistake in it, on one rank only."""
    if parallel_state.get_tensor_model_parallel_rank() == 1:
        raise ZeroDivisionError("in the user's own spec")
    return _sound(config, vp_stage)
