"""Sparse attention (DSA) in megatron-core's layers: its own modules, put together without Transformer Engine.

megatron-core has a spec for Transformer Engine alone (since 0.18). This builds the same one, part by part, with Plumbline's
norms and megatron-core's linear layers.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import MLATransformerConfig

from validation.candidate.modules import LayerNorm, RMSNorm
from validation.candidate.versions import DUPLICATED_LINEAR, of_stage
from validation.case.case import Case
from validation.case.sparse import KEY_NORM_EPSILON, VARIANT

_ROOM = "megatron.core.transformer.experimental_attention_variant"
_SPECS = "megatron.core.models.gpt.experimental_attention_variant_module_specs"
_FIELD = "experimental_attention_variant"


def arguments(case: Case) -> dict[str, Any]:
    """What the configuration of a model with sparse attention is made from, beside the rest; nothing without it.

    The indexer's loss is off: it trains the indexer alone, and transformers has none. The Hadamard rotation is off, too: it
    changes no product, and transformers leaves it out. The key's norm has transformers' epsilon.
    """
    model = case.model
    if not model.sparse:
        return {}
    return {
        _FIELD: VARIANT,
        "dsa_indexer_topk": model.index_topk,
        "dsa_indexer_n_heads": model.index_n_heads,
        "dsa_indexer_head_dim": model.index_head_dim,
        "dsa_indexer_rope_interleaved": model.indexer_rope_interleave,
        "dsa_indexer_rotate_activation": False,
        "dsa_indexer_k_norm_epsilon": KEY_NORM_EPSILON,
    }


def is_sparse(config: MLATransformerConfig) -> bool:
    """Whether the configuration asks for sparse attention."""
    return getattr(config, _FIELD, None) == VARIANT


def without(config: MLATransformerConfig) -> MLATransformerConfig:
    """The configuration of the same model with attention to all keys, for what knows no other."""
    if not is_sparse(config):
        return config
    plain = copy.copy(config)
    setattr(plain, _FIELD, None)
    return plain


def attention() -> ModuleSpec:
    """megatron-core's absorbed attention with its indexer, of layers that need no Transformer Engine."""
    absorbed, dsa = (importlib.import_module(f"{_ROOM}.{name}") for name in ("absorbed_mla", "dsa"))
    whole = dict.fromkeys(("linear_wq_b", "linear_wk", "linear_weights_proj"), DUPLICATED_LINEAR)
    indexer = ModuleSpec(module=dsa.DSAIndexer, submodules=dsa.DSAIndexerSubmodules(k_norm=LayerNorm, **whole))
    parts = absorbed.AbsorbedMLASelfAttentionSubmodules(
        linear_q_proj=ColumnParallelLinear,
        linear_q_down_proj=DUPLICATED_LINEAR,
        linear_q_up_proj=ColumnParallelLinear,
        linear_kv_down_proj=DUPLICATED_LINEAR,
        linear_kv_up_proj=ColumnParallelLinear,
        core_attention=ModuleSpec(module=dsa.DSAttention, submodules=dsa.DSAttentionSubmodules(indexer=indexer)),
        linear_proj=RowParallelLinear,
        q_layernorm=RMSNorm,
        kv_layernorm=RMSNorm,
    )
    return ModuleSpec(
        module=absorbed.AbsorbedMLASelfAttention, params={"attn_mask_type": AttnMaskType.causal}, submodules=parts
    )


def te_block(config: MLATransformerConfig, vp_stage: int | None) -> TransformerBlockSubmodules:
    """megatron-core's own block with sparse attention, of Transformer Engine's layers."""
    made = importlib.import_module(_SPECS).get_transformer_block_with_experimental_attention_variant_spec
    block: TransformerBlockSubmodules = made(config, **of_stage(made, vp_stage))
    return block
