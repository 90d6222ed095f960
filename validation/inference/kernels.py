"""Stand-ins in torch for the kernels that megatron-core's dynamic inference calls, which need a GPU.

They read the cache by block table as the kernels do. With them a CPU run tests bookkeeping and algebra, not kernels.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import torch

from validation.candidate import platform
from validation.case.case import Case


def prefill(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    *_: Any,
    softmax_scale: float,
    block_table: torch.Tensor,
    **__: Any,
) -> torch.Tensor:
    """`flash_attn_varlen_func`: causal attention of the requests that lie one behind the other in `q`, [tokens, heads, dim].

    `queries` and `keys` are cumulative lengths of the requests, `k` and `v` blocks of the cache, [blocks, tokens, heads, dim].
    """
    out = torch.zeros(*q.shape[:2], v.shape[-1], dtype=q.dtype, device=q.device)
    for request, blocks in enumerate(block_table):
        start, stop = int(queries[request]), int(queries[request + 1])
        length = int(keys[request + 1] - keys[request])
        if start < stop:
            key, value = (_rows(cache, blocks, length) for cache in (k, v))
            places = torch.arange(length, device=q.device)
            visible = places <= places[length - (stop - start) :, None]
            out[start:stop] = _attend(q[start:stop], key, value, softmax_scale, visible)
    return out


def decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    block_table: torch.Tensor,
    lengths: torch.Tensor,
    value_dim: int,
    *_: Any,
    softmax_scale: float,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """`flash_mla_with_kvcache`: one absorbed query of each request, [requests, 1, heads, dim], over its latents.

    `cache` is [blocks, tokens, 1, dim], of which the first `value_dim` are the value.
    """
    out = torch.zeros(*q.shape[:3], value_dim, dtype=q.dtype, device=q.device)
    for request, blocks in enumerate(block_table):
        if length := int(lengths[request]):
            key = _rows(cache, blocks, length).expand(-1, q.shape[2], -1)
            out[request] = _attend(q[request], key, key[..., :value_dim], softmax_scale, None)
    return out, None


def _rows(cache: torch.Tensor, blocks: torch.Tensor, length: int) -> torch.Tensor:
    """The first tokens of a request, [tokens, heads, dim]."""
    used = blocks[: -(-length // cache.shape[1])].long()
    return cache[used].flatten(0, 1)[:length]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, visible: torch.Tensor | None
) -> torch.Tensor:
    """Softmax attention of [queries, heads, dim] over [keys, heads, dim], where `visible`, [queries, keys], is True.

    As kernels do, it computes in float32 what comes in sixteen bits, and rounds once.
    """
    dtype, wide = query.dtype, torch.promote_types(query.dtype, torch.float32)
    query, key, value = (tensor.to(wide) for tensor in (query, key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).to(dtype)


def _split(fused: Any, config: Any, *_: Any) -> tuple[Any, Any]:
    """`split_te_layernorm_column_parallel_linear` of layers that are apart already: the norm is outside, the weight is copied.

    As megatron-core's own, which makes a new linear layer and copies the weight into it.
    """
    linear = importlib.import_module("megatron.core.tensor_parallel.layers").ColumnParallelLinear
    made = linear(
        fused.input_size, fused.output_size, config=config, init_method=lambda tensor: tensor, bias=False, gather_output=False
    )
    made.weight.copy_(fused.weight)
    return None, made


def standing_in(case: Case, context: Any) -> contextlib.AbstractContextManager[None]:
    """Within it megatron-core's attention calls these instead of kernels; `context` says whether a step is of decode alone.

    Transformer Engine's layers are split by megatron-core itself.
    """
    return platform.kernels_in_torch(context, prefill, decode, None if case.uses_te else _split)
