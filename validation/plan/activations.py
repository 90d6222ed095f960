"""What a forward pass keeps for the backward pass, tensor by tensor, in bf16.

`te` is what megatron-core 0.16.1 keeps with Transformer Engine's layers and a flash attention (benchmarks/activations.py
measures it). Without the fused activation both factors of SwiGLU stay, and what experts make before it is weighted.
`local` is what the layers of Plumbline's implementation `local` keep on a CPU. tests/plan holds it against saved_tensors_hooks.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/multi_latent_attention.py
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/moe_layer.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from validation.case.model import Model

HALF, FULL = 2, 4
"""Bytes of bf16 and fp32."""
CUT, WHOLE, ROUTED = "cut", "whole", "routed"
"""A rank's tokens of a sequence between tensor-parallel regions (cut by sequence parallelism), inside them, and, in its
experts, the rows that reach it."""
MODULES = ("core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts")
"""Upstream's recompute_modules."""


@dataclass(frozen=True)
class Item:
    """A tensor that is kept: bytes for one token, which tokens, and which recompute_modules each make it again."""

    name: str
    size: float
    tokens: str
    modules: tuple[str, ...] = ()


def attention(model: Model, tp: int, seq_length: int, local: bool = False) -> Iterator[Item]:
    """Norm and attention of one layer. `seq_length` counts the keys that a query sees."""
    heads = model.num_attention_heads / tp
    query, key_value = model.q_lora_rank or 0, model.kv_lora_rank
    yield from _norm("input norm", model.hidden_size, local, normed=("layernorm",))
    yield from _norm("query latent", query, local, normed=("mla_up_proj",))
    yield from _norm("KV latent", key_value, local, normed=("mla_up_proj",))
    values, products = heads * model.v_head_dim, heads * (2 * model.query_head_dim + model.v_head_dim)
    if local:  # core attention computes in fp32, and keeps what softmax made
        yield Item("query, key, value", HALF * products, WHOLE, ("mla_up_proj",))
        yield Item("what fp32 adds to them", (FULL - HALF) * products, WHOLE, ("mla_up_proj", "core_attn"))
        yield Item("attention weights", FULL * heads * seq_length, WHOLE, ("core_attn",))
    else:
        yield Item("query, key, value", HALF * products, WHOLE, ("mla_up_proj",))
        yield Item("softmax statistics", FULL * heads, WHOLE, ("core_attn",))
    yield Item("attention output", HALF * values, WHOLE)


def _norm(name: str, width: int, local: bool, normed: tuple[str, ...]) -> Iterator[Item]:
    """What a norm keeps, and its output, which the product behind it keeps."""
    if width:
        yield Item(name, 2 * FULL * width + FULL if local else HALF * width, CUT)
        yield Item(f"{name} output", HALF * width, CUT, normed)


def dense_mlp(model: Model, tp: int, local: bool = False, unfused: bool = False) -> Iterator[Item]:
    """Norm and MLP of a dense layer."""
    yield from _norm("MLP norm", model.hidden_size, local, normed=("layernorm",))
    yield from _gated("MLP", model.intermediate_size / tp, WHOLE, ("mlp",), local or unfused)


def _gated(
    name: str, width: float, tokens: str, modules: tuple[str, ...], unfused: bool, act: tuple[str, ...] = ()
) -> Iterator[Item]:
    """Gate and up projections in one tensor, their product; unfused, also what lies between."""
    yield Item(f"{name} gate and up", HALF * 2 * width, tokens, modules)
    if unfused:
        yield Item(f"{name} activation", HALF * 2 * width, tokens, (*modules, *act))
    yield Item(f"{name} product", HALF * width, tokens, (*modules, *act))


def experts_mlp(model: Model, tp: int, etp: int, local: bool = False, unfused: bool = False) -> Iterator[Item]:
    """Norm, router, shared and routed experts of a layer."""
    moe, experts, top = ("moe",), model.n_routed_experts, model.num_experts_per_tok
    yield from _norm("MLP norm", model.hidden_size, local, normed=("layernorm",))
    yield Item("router", (2 * FULL + 2) * experts + 44 * top + 16 * model.n_group, CUT, moe)
    shared = model.n_shared_experts * model.moe_intermediate_size / tp
    if shared:
        yield from _gated("shared experts", shared, WHOLE, ("moe", "shared_experts"), local or unfused)
    width = model.moe_intermediate_size / etp
    yield Item("rows of the experts", HALF * model.hidden_size, ROUTED, moe)
    yield from _gated("experts", width, ROUTED, moe, local or unfused, act=("moe_act",))
    yield Item("probabilities of the rows", FULL, ROUTED, moe)
    if local or unfused:
        yield Item("weighted product", HALF * width, ROUTED, moe)


def mtp_entry(model: Model, local: bool = False) -> Iterator[Item]:
    """Two norms, their outputs in one tensor, and the norm behind an MTP layer."""
    for name in ("MTP embedding norm", "MTP hidden norm"):
        yield from _norm(name, model.hidden_size, local, normed=())
    yield Item("MTP projection input", HALF * 2 * model.hidden_size, CUT)
    yield from _norm("MTP final norm", model.hidden_size, local, normed=())


def final_norm(model: Model, local: bool = False) -> Iterator[Item]:
    """The norm behind the last layer."""
    yield from _norm("final norm", model.hidden_size, local, normed=())
