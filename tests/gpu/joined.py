"""Defects of layers that join more, as plugins: `tests/gpu/joined.py:swapped`, `:epsilon` and `:lost`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch


def plugin(kind: str) -> Any:
    """One defect in every layer: latents in each other's place, another epsilon before them, or a lost residual gradient."""
    put: Callable[[Any], None] = {"swapped": _swapped, "epsilon": _epsilon, "lost": _lost}[kind]

    def built(case: Any, chunks: list[Any]) -> None:
        for chunk in chunks:
            for layer in _layers(chunk):
                put(layer)

    return SimpleNamespace(built=built)


def _layers(chunk: Any) -> Iterator[Any]:
    yield from chunk.decoder.layers


def _swapped(layer: Any) -> None:
    """The product has the rows of key and value first."""
    attention = layer.self_attention
    config = attention.config
    latent = config.kv_lora_rank + config.qk_pos_emb_head_dim

    def turned(module: Any, given: Any, output: Any) -> Any:
        ranks = (config.q_lora_rank + latent) // output[0].shape[-1]
        return torch.roll(output[0], latent // ranks, -1), *output[1:]

    attention.linear_qkv_down_proj.register_forward_hook(turned)


def _epsilon(layer: Any) -> None:
    """The norm that is a part of the projection."""
    layer.self_attention.linear_qkv_down_proj.eps = 1.0


def _lost(layer: Any) -> None:
    """The norm before the MLP hands the residual on, and no gradient comes back by it."""
    norm = layer.pre_mlp_layernorm
    if not hasattr(norm, "_fused_impl"):
        return  # a dense layer's is a part of the projection behind it
    forward = norm.forward

    def cut(hidden: torch.Tensor) -> Any:
        normed, residual = forward(hidden)
        return normed, residual.detach()

    norm.forward = cut
