"""The modules that Plumbline puts into megatron-core's layer spec where its own need CUDA or Transformer Engine.

They stand where Transformer Engine's stand in the spec that is trained with: RMSNorm, duplicated down-projections, core
attention. Everything else of the layer is megatron-core's.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from validation.candidate.config import LATENT_NORM_EPSILON
from validation.candidate.sequence import positions
from validation.candidate.versions import context_parallel_group


class RMSNorm(torch.nn.RMSNorm):
    """RMSNorm that may be sequence-parallel, which megatron-core's wrapper of the same class refuses to be."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        # finalize_model_grads sums the gradients of marked parameters over the tensor-parallel ranks.
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - no attribute of a Parameter


class LatentRMSNorm(RMSNorm):
    """The norm of the query or KV latent, with the epsilon that HuggingFace gives it."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(config, hidden_size, eps=LATENT_NORM_EPSILON)


class CoreAttention(torch.nn.Module):
    """Causal softmax attention on torch's scaled_dot_product_attention, with context parallelism by gathering.

    Under context parallelism keys and values are gathered over the context-parallel ranks (the backward of the gather
    reduce-scatters), so that the zigzag split, the rotary slices and the reductions are megatron-core's and are tested.
    """

    def __init__(self, config: TransformerConfig, softmax_scale: float, **rest: Any) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale
        self.cp_group = context_parallel_group(rest)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Context of shape [sequence, batch, heads * v_head_dim]; query, key, value are [sequence, batch, heads, dim]."""
        ranks, rank = self.cp_group.size(), self.cp_group.rank()
        mask = None
        if ranks > 1:
            length = query.shape[0] * ranks
            key = gather_from_sequence_parallel_region(key, group=self.cp_group)
            value = gather_from_sequence_parallel_region(value, group=self.cp_group)
            owned = [torch.tensor(positions(length, ranks, owner), device=query.device) for owner in range(ranks)]
            mask = owned[rank][:, None] >= torch.cat(owned)[None, :]
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        context = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.softmax_scale
        )
        return context.permute(2, 0, 1, 3).flatten(2)


class StockCoreAttention(DotProductAttention):
    """megatron-core's own core attention, given the head sizes of multi-latent attention.

    Its constructor knows neither k_channels nor v_channels: https://github.com/NVIDIA/Megatron-LM/issues/1589
    """

    def __init__(self, *args: Any, k_channels: int | None = None, v_channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if v_channels is not None:
            self.hidden_size_per_partition = v_channels * self.num_attention_heads_per_partition
