"""The modules that Plumbline puts into megatron-core's layer spec where its own need CUDA or Transformer Engine.

They stand where Transformer Engine's stand in the spec that is trained with: RMSNorm, duplicated down-projections, core
attention. Everything else of the layer is megatron-core's, and what it gives them they take or refuse.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from validation.candidate.sequence import positions
from validation.candidate.versions import context_parallel_group
from validation.case.plural import many


class RMSNorm(torch.nn.RMSNorm):
    """RMSNorm that may be sequence-parallel, which megatron-core's wrapper of the same class refuses to be.

    Its weight may be stored less 1 (`layernorm_zero_centered_gamma`). Raises ValueError for another norm.
    """

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        if config.normalization != "RMSNorm":
            raise ValueError(
                f"norms of the implementations local and local-stock are RMSNorm, and normalization is {config.normalization}; "
                "te has Transformer Engine's"
            )
        self._stored_less = float(config.layernorm_zero_centered_gamma)
        # finalize_model_grads sums the gradients of marked parameters over the tensor-parallel ranks.
        setattr(self.weight, "sequence_parallel", config.sequence_parallel)  # noqa: B010 - no attribute of a Parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of [..., hidden]."""
        if not self._stored_less:
            return super().forward(x)
        return functional.rms_norm(x, self.normalized_shape, self.weight + self._stored_less, self.eps)


class LayerNorm(torch.nn.LayerNorm):
    """The norm of an indexer's key, in the dtype of the parameters, with megatron-core's arguments."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)


IGNORED = {"window_size": None, "softmax_type": "vanilla", "apply_query_key_layer_scaling": False}
"""What configurations have for core attention and ours does not take, with the value that asks for nothing."""


class CoreAttention(torch.nn.Module):
    """Causal softmax attention on torch's scaled_dot_product_attention, with context parallelism by gathering.

    A mask may forbid more than a causal one does: attention to other documents of the sequence. A token that is decoded has no
    mask: it attends to all that the cache holds.

    Under context parallelism keys and values are gathered over the context-parallel ranks (the backward of the gather
    reduce-scatters), so that the zigzag split, the rotary slices and the reductions are megatron-core's and are tested.
    Raises ValueError where a mask allows what a causal one forbids, and for dropout: what it ignored would not be seen.
    """

    def __init__(
        self, config: TransformerConfig, softmax_scale: float, attn_mask_type: AttnMaskType = AttnMaskType.causal, **rest: Any
    ) -> None:
        super().__init__()
        self.config, self.softmax_scale, self.attn_mask_type = config, softmax_scale, attn_mask_type
        self.cp_group = context_parallel_group(rest)
        for name, value in IGNORED.items():
            if getattr(config, name, value) != value:
                raise _refusal(f"{name} is {getattr(config, name)}")

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> torch.Tensor:
        """Context of shape [sequence, batch, heads * v_head_dim]; query, key, value are [sequence, batch, heads, dim].

        The mask is True where attention is forbidden, [..., sequence, sequence] of the whole sequence; None stands for what
        its type says.
        """
        ranks, rank = self.cp_group.size(), self.cp_group.rank()
        length = query.shape[0] * ranks
        if attention_bias is not None:
            raise _refusal("a bias is given")
        if self.training and self.config.attention_dropout:
            raise _refusal(f"attention_dropout is {self.config.attention_dropout}")
        kind = attn_mask_type or self.attn_mask_type
        if kind == AttnMaskType.no_mask and not self.training and packed_seq_params is None:
            return self._attend(query, key, value, None, causal=False)
        if packed_seq_params is not None:
            if kind not in (AttnMaskType.causal, AttnMaskType.padding_causal):
                raise _refusal(f"the mask's type is {kind.name}")
            return self._packed(query, key, value, packed_seq_params)
        forbidden = _beyond_causal(attention_mask, kind, length)
        mask = None if forbidden is None else ~forbidden
        if ranks > 1:
            key = gather_from_sequence_parallel_region(key, group=self.cp_group)
            value = gather_from_sequence_parallel_region(value, group=self.cp_group)
            owned = [torch.tensor(positions(length, ranks, owner), device=query.device) for owner in range(ranks)]
            rows, columns = owned[rank], torch.cat(owned)
            mask = rows[:, None] >= columns[None, :] if mask is None else mask[..., rows[:, None], columns[None, :]]
        return self._attend(query, key, value, mask, causal=mask is None)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, causal: bool
    ) -> torch.Tensor:
        """The context of queries that attend where `mask` is True, to all keys without one, or to those before them."""
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.softmax_scale)
        return context.permute(2, 0, 1, 3).flatten(2)

    def _packed(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Any) -> torch.Tensor:
        """The same for documents that are packed into one sequence: query, key, value are [sequence, heads, dim].

        Returns [sequence, heads * v_head_dim]. Raises ValueError for what packed sequences may have and this does not take.
        """
        ranks, rank = self.cp_group.size(), self.cp_group.rank()
        ends = _document_ends(packed, query.shape[0] * ranks)
        owned = [positions(int(ends[-1]), ranks, owner, ends[1:].tolist()) for owner in range(ranks)]
        rows, columns = (torch.tensor(places, device=query.device) for places in (owned[rank], [*chain(*owned)]))
        of_rows, of_columns = (torch.searchsorted(ends, places, right=True) for places in (rows, columns))
        mask = (of_rows[:, None] == of_columns[None, :]) & (rows[:, None] >= columns[None, :])
        if ranks > 1:
            key = gather_from_sequence_parallel_region(key, group=self.cp_group)
            value = gather_from_sequence_parallel_region(value, group=self.cp_group)
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.softmax_scale)
        return context[0].transpose(0, 1).flatten(1)


_TAKEN = ("cu_seqlens_q", "cu_seqlens_kv", "max_seqlen_q", "max_seqlen_kv", "qkv_format")
_PADDED = ("cu_seqlens_q_padded", "cu_seqlens_kv_padded")
"""What packed sequences are told of, and ours takes."""


def _document_ends(packed: Any, length: int) -> torch.Tensor:
    """Where documents end in a packed sequence of `length` tokens, from 0 on, each with the padding behind it.

    Nothing before the padding attends to it. Raises ValueError for what packed sequences may have and core attention does not
    take.
    """
    given = {name: value for name, value in vars(packed).items() if value is not None}
    further = sorted(given.keys() - {*_TAKEN, *_PADDED})
    if packed.qkv_format != "thd" or further:
        raise _refusal(f"packed sequences of the format {packed.qkv_format} have {', '.join(further)}")
    tokens, padded = (
        [given[name].to(torch.int64) for name in names if name in given]
        for names in (("cu_seqlens_q", "cu_seqlens_kv"), _PADDED)
    )
    ends = (padded or tokens)[0]
    alike = all(torch.equal(one, group[0]) for group in (tokens, padded) for one in group)
    if not alike or int(ends[-1]) != length or len(ends) != len(tokens[0]) or bool((tokens[0].diff() > ends.diff()).any()):
        raise _refusal(f"the documents of a packed sequence of {many(length, 'token')} end at {ends.tolist()}")
    return ends


def _beyond_causal(mask: torch.Tensor | None, kind: AttnMaskType, length: int) -> torch.Tensor | None:
    """The mask of `length` positions if it forbids more than the causal one, None if it is that.

    Raises ValueError for a mask that allows what a causal one forbids, and for another type.
    """
    if kind != AttnMaskType.causal:
        raise _refusal(f"the mask's type is {kind.name}")
    if mask is None:
        return None
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
    if mask.dtype != torch.bool or mask.shape[-2:] != causal.shape or bool((causal & ~mask).any()):
        raise _refusal(
            f"the mask of shape {tuple(mask.shape)} allows what the causal one of {many(length, 'position')} forbids"
        )
    if bool(mask.all(-1).any()):
        raise _refusal(f"the mask of shape {tuple(mask.shape)} leaves a position nothing to attend to")
    return None if bool((mask == causal).all()) else mask


def _refusal(what: str) -> ValueError:
    return ValueError(
        f"core attention of the implementation local is causal and drops nothing, and {what}; local-stock has "
        "megatron-core's own core attention, te Transformer Engine's"
    )


class StockCoreAttention(DotProductAttention):
    """megatron-core's own core attention, given the head sizes of multi-latent attention.

    Its constructor knows neither k_channels nor v_channels: https://github.com/NVIDIA/Megatron-LM/issues/1589
    """

    def __init__(self, *args: Any, k_channels: int | None = None, v_channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if v_channels is not None:
            self.hidden_size_per_partition = v_channels * self.num_attention_heads_per_partition
