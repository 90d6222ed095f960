"""The smallest model that keeps what a model means: its numbers without a size stay, its sizes shrink to those of `tiny`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from validation.case.layout import Layout
from validation.case.model import Model
from validation.recipe.signature import Full, Options

EXPERTS = 12
"""Of a stand-in with several experts a rank: 1 to 4 ranks share them equally, and so do 4 groups."""
VOCABULARY = 72
_GROUPS, _TOP = 4, 4
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 48,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 32,
}
"""Those of preset `tiny`, but for what 3 ranks must be able to share as well as 2 and 4. In bf16 the width of an expert is a
multiple of 16 bytes, which grouped products of torch ask for. The vocabulary is small enough that a
batch has each of its tokens."""
_QUERY_LATENT = 24
MOST_MTP = 2
"""MTP layers of a stand-in."""
MOST_INSTANCES = 2
"""Instances of the distributed optimizer of a stand-in."""
SEQUENCE = 48
_INDEXER = {"index_topk": 8, "index_n_heads": 4, "index_head_dim": 32}
"""Of a model with sparse attention: most queries choose among more keys."""


def small(full: Full, layout: Layout, layers: int, dense: int) -> Model:
    """The stand-in for the full model, with so many layers, under the stand-in's layout.

    Kept are all factors, epsilons and rotary settings, tied embeddings, whether queries have a latent, whether the choice of
    experts is limited to groups, and whether a rank has one or several experts, heads and MTP layers.
    """
    model = full.model
    changed: dict[str, Any] = {
        **_SIZES,
        **_routing(full, layout),
        "num_hidden_layers": layers,
        "first_k_dense_replace": dense,
        "num_attention_heads": _heads(full, layout),
        "v_head_dim": _value_size(model),
        "q_lora_rank": None if model.q_lora_rank is None else _QUERY_LATENT,
        "n_shared_experts": min(max(model.n_shared_experts, 1), 2),
        "num_nextn_predict_layers": min(model.num_nextn_predict_layers, MOST_MTP),
    }
    return replace(model, **changed | (_INDEXER if model.sparse else {}))


def _routing(full: Full, layout: Layout) -> dict[str, int]:
    """Experts, groups and how many are chosen."""
    model = full.model
    several = layout.ep == 1 or model.n_routed_experts > full.layout.ep
    experts = EXPERTS if several else layout.ep
    if model.n_group == 1 or experts < 4:
        top = min(max(model.num_experts_per_tok, 2), _TOP, experts)
        return {"n_routed_experts": experts, "n_group": 1, "topk_group": 1, "num_experts_per_tok": top}
    groups = _GROUPS if several else 2
    chosen = groups if model.topk_group >= model.n_group else min(model.topk_group, groups // 2)
    best = 2 if model.sigmoid else 1  # by which HuggingFace scores a group
    return {"n_routed_experts": experts, "n_group": groups, "topk_group": chosen, "num_experts_per_tok": best * chosen}


def _heads(full: Full, layout: Layout) -> int:
    """One head or several on each rank, counting context-parallel ranks too if these exchange heads."""
    several = full.model.num_attention_heads > _sharing_heads(full.layout, full.options)
    shares = _sharing_heads(layout, full.options)
    return max(2 * shares, 4) if several else shares


def _sharing_heads(layout: Layout, options: Options) -> int:
    return layout.tp * (layout.cp if "a2a" in options.context_parallelism else 1)


def _value_size(model: Model) -> int:
    """Elements of a head's value: as many as of its key without position, more or fewer, as in the model."""
    without = _SIZES["qk_nope_head_dim"]
    return without + 8 * ((model.v_head_dim > model.qk_nope_head_dim) - (model.v_head_dim < model.qk_nope_head_dim))


def sequence_length(layout: Layout, multiple: int = 1) -> int:
    """The shortest sequence from SEQUENCE on that the layout cuts into equal parts, and that is a multiple of a number."""
    step = math.lcm(2 * layout.cp, layout.tp * layout.cp, multiple)
    return -(-SEQUENCE // step) * step


def micro_batches(layout: Layout) -> int:
    """Enough that each stage computes forward and backward in turn, in whole sets of pp with virtual stages."""
    if layout.pp == 1:
        return 2
    return 2 * layout.pp if layout.vpp > 1 else layout.pp + 1
