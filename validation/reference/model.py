"""Building the HuggingFace model of a case, its parameters straight from the checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3ForCausalLM,
    DeepseekV3RotaryEmbedding,
    eager_attention_forward,
)

from validation.case.model import PADDED, Model
from validation.case.parameters import EXPERTS, parameters
from validation.reference import keys, sparse
from validation.reference.checkpoint import Checkpoint
from validation.reference.sources import Precision

if TYPE_CHECKING:
    from validation.reference.floor import Variant

ATTENTION, RECORDED_ATTENTION = "sdpa", "plumbline_recorded"
EXPERTS_IMPLEMENTATION = "eager"


class Watcher(Protocol):
    """What sees each attention call while a model is being recorded, and may put other numbers in their place."""

    def given(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, [batch, heads, sequence, dim], as attention is to get them."""

    def made(self, module: Any, context: torch.Tensor) -> torch.Tensor:
        """The context, [batch, sequence, heads, dim], as the module is to go on with it."""


on_attention: list[Watcher] = []

_attention = [ATTENTION]
"""The attention that models run now, the last of them."""


@contextlib.contextmanager
def computing_with(hf: DeepseekV3ForCausalLM, attention: str, experts: str) -> Iterator[None]:
    """Within it the model (and what shares its configuration) computes attention and experts by these implementations."""
    before = hf.config._experts_implementation
    _attention.append(attention)
    hf.config._experts_implementation = experts
    try:
        yield
    finally:
        hf.config._experts_implementation = before
        _attention.pop()


SCORES_AT_ONCE = 1 << 30
"""Attention scores that eager attention may hold: those of 64 heads over 4096 positions."""


def _eager(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    """Transformers' own eager attention, which adds its mask and leaves nothing out by itself.

    Where the scores of all heads are too many to be held at once it is called for some heads after the others, and again in the
    backward pass.
    """
    batch, _, length, _ = query.shape
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1) if mask is None else ~mask
    added = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device).masked_fill(hidden, torch.finfo(query.dtype).min)
    if query.numel() // query.shape[-1] * length <= SCORES_AT_ONCE:
        return eager_attention_forward(module, query, key, value, added, **kwargs)
    together = max(1, SCORES_AT_ONCE // (batch * length * length))

    def some(*parts: Any) -> Any:
        return eager_attention_forward(module, *parts, added, **kwargs)[0]

    cut = zip(*(tensor.split(together, dim=1) for tensor in (query, key, value)), strict=True)
    return torch.cat([checkpoint(some, *parts, use_reentrant=False) for parts in cut], dim=2), None


def _recorded_attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
    if (indices := kwargs.pop("indices", None)) is not None:
        mask = keys.visible(mask, indices, key.shape[2])
    attend = _eager if _attention[-1] == "eager" else ALL_ATTENTION_FUNCTIONS[_attention[-1]]
    for watcher in on_attention:
        query, key, value = watcher.given(module, query, key, value)
    context, weights = attend(module, query, key, value, mask, **kwargs)
    for watcher in on_attention:
        context = watcher.made(module, context)
    return context, weights


# transformers' own way to bring an attention function of one's own; the function it calls is transformers' own.
AttentionInterface.register(RECORDED_ATTENTION, _recorded_attention)
AttentionMaskInterface.register(RECORDED_ATTENTION, sdpa_mask)


def hf_config(model: Model) -> DeepseekV3Config:
    """Transformers' configuration of `model`."""
    numbers = model.as_dict() | {"vocab_size": model.vocabulary_rows}
    numbers.pop(PADDED, None)
    rope = {
        "rope_type": numbers.pop("rope_type"),
        "rope_theta": numbers.pop("rope_theta"),
        "factor": numbers.pop("rope_factor"),
    }
    yarn = ("original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    rope |= {name: number for name in yarn if (number := numbers.pop(name)) is not None}
    if rope["rope_type"] == "default":
        rope = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    mtp_layers = numbers.pop("num_nextn_predict_layers")
    numbers.pop("indexer_rope_interleave", None)
    kind = sparse.classes(model)[0] if model.sparse else DeepseekV3Config
    config: DeepseekV3Config = kind(
        **numbers,
        num_key_value_heads=model.num_attention_heads,
        num_mtp_layers=mtp_layers,
        norm_topk_prob=model.sigmoid,
        rope_parameters=rope,
        use_cache=False,
        attn_implementation=RECORDED_ATTENTION,
    )
    config._experts_implementation = EXPERTS_IMPLEMENTATION
    return config


def build(model: Model, checkpoint: Checkpoint, precision: Precision, device: torch.device) -> DeepseekV3ForCausalLM:
    """The model with the checkpoint's weights, in training mode.

    Built without storage first, so that no weight exists twice.
    """
    hf = without_weights(model)
    names = [name for name, parameter in parameters(model).items() if parameter.mtp is None]
    weights = {name: precision.of(name, tensor).to(device) for name, tensor in state(names, checkpoint)}
    if model.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    hf.load_state_dict(weights, strict=True, assign=True)
    if model.tie_word_embeddings:
        hf.tie_weights()
    return hf.to(device).train()


def without_weights(model: Model) -> DeepseekV3ForCausalLM:
    """The model with no storage for its weights."""
    config = hf_config(model)
    with torch.device("meta"):
        hf: DeepseekV3ForCausalLM = (sparse.classes(model)[1] if model.sparse else DeepseekV3ForCausalLM)(config)
        if not model.sigmoid:
            _choose_by_softmax(hf, model)
    # The rotary table is no weight: it is computed when the module is made, and must be made for real.
    hf.model.rotary_emb = DeepseekV3RotaryEmbedding(config)
    return hf


def _choose_by_softmax(hf: DeepseekV3ForCausalLM, model: Model) -> None:
    """Every layer's router becomes DeepSeek-V2's, transformers' own. The rest of both models is the same (tests/reference)."""
    config = DeepseekV2Config(
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        n_routed_experts=model.n_routed_experts,
        num_experts_per_tok=model.num_experts_per_tok,
        routed_scaling_factor=model.routed_scaling_factor,
        topk_method=model.topk_method,
        n_group=model.n_group,
        topk_group=model.topk_group,
    )
    for layer in model.moe_layers:
        hf.model.layers[layer].mlp.gate = DeepseekV2TopkRouter(config)


def state(names: Iterable[str], checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value as transformers holds them in memory: a layer's experts in two tensors, gate and up in one."""
    for name in names:
        if EXPERTS not in name:
            yield name, checkpoint.read(name)
        elif name.endswith("gate_proj.weight"):
            yield (
                name.replace("gate_proj.weight", "gate_up_proj"),
                torch.cat([checkpoint.read(name), checkpoint.read(name.replace("gate_", "up_"))], 1),
            )
        elif name.endswith("down_proj.weight"):
            yield name.removesuffix(".weight"), checkpoint.read(name)


def gradients(named: Iterable[tuple[str, torch.nn.Parameter]], model: Model) -> dict[str, torch.Tensor]:
    """The gradient of every trained parameter, under the checkpoint's names with the experts stacked."""
    return of_parameters(
        named, model, lambda parameter: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    )


def of_parameters(
    named: Iterable[tuple[str, torch.nn.Parameter]], model: Model, of: Callable[[torch.nn.Parameter], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What `of` makes of every trained parameter (a tensor of its shape), by the checkpoint's names, experts stacked."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in named:
        found |= by_checkpoint_name(name, of(parameter).detach())
    return {name: found[name].contiguous() for name, parameter in parameters(model).items() if parameter.trained}


def by_checkpoint_name(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """A value of the shape of transformers' parameter `name`, by the checkpoint's names, experts stacked: views."""
    if name.endswith("experts.gate_up_proj"):
        gate, up = value.chunk(2, dim=1)
        prefix = name.removesuffix("gate_up_proj")
        return {f"{prefix}gate_proj.weight": gate, f"{prefix}up_proj.weight": up}
    return {f"{name}.weight" if name.endswith("experts.down_proj") else name: value}


@contextlib.contextmanager
def varied(hf: DeepseekV3ForCausalLM, variant: Variant) -> Iterator[None]:
    """Within it the model runs as a variant of the floor says."""
    with computing_with(hf, variant.attention, variant.experts):
        # Behind the hooks that record: what the layers get has moved, what is recorded of the embedding has not.
        hook = hf.model.embed_tokens.register_forward_hook(lambda *given: variant.move(given[-1]) if variant.moved else None)
        try:
            yield
        finally:
            hook.remove()
