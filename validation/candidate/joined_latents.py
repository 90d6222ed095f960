"""Attention with one down-projection for both latents (validation.case.joined_latents): its module, and what it makes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.case.joined_latents import FIELD, PROJECTION

_ROOM = "megatron.core.transformer.multi_latent_attention"
Latents = tuple[torch.Tensor, torch.Tensor]
"""The query's and that of key and value, as the attention goes on with them: [sequence, batch, elements of this rank]."""


def wanted(config: MLATransformerConfig) -> bool:
    """Whether the configuration asks for it; a release before 0.17 has no such field."""
    return getattr(config, FIELD, False) is True


def put_into(attention: ModuleSpec) -> None:
    """Have a layer's attention be megatron-core's with one down-projection, column-parallel as Transformer Engine's.

    The norm stays in its own module: Transformer Engine alone has a projection that norms.
    """
    attention.module = importlib.import_module(_ROOM).FusedMLASelfAttention
    attention.submodules.linear_qkv_down_proj = ColumnParallelLinear


def has(attention: Any) -> bool:
    """Whether an attention of a model has one projection for both."""
    return hasattr(attention, PROJECTION)


def watch(attention: Any, seen: Callable[[torch.Tensor, torch.Tensor], Latents]) -> None:
    """Have `seen` be given both latents as the attention has cut them, and say what it goes on with.

    Under tensor parallelism the query's has been gathered, and each rank has its columns of the other.
    """
    project = attention._qkv_down_projection

    def projected(*given: Any, **named: Any) -> Latents:
        return seen(*project(*given, **named))

    attention._qkv_down_projection = projected
