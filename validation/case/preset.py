"""The named model sizes, each with the data it is fed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from validation.case.errors import UsageError
from validation.case.model import Model


@dataclass(frozen=True)
class Preset:
    """A model size and the batch that goes with it: sequences, sequences per micro-batch, tokens per sequence.

    `stream` says that it is compared layer by layer (validation.case.training) without being asked for.
    """

    name: str
    model: Model
    batch_size: int
    micro_batch_size: int
    seq_length: int
    stream: bool = False


TINY = Preset(
    name="tiny",
    model=Model(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=4,
        first_k_dense_replace=1,
        num_attention_heads=4,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=32,
        v_head_dim=16,
        mscale=1.0,
        mscale_all_dim=0.707,
    ),
    batch_size=4,
    micro_batch_size=2,
    seq_length=48,
)
"""Small enough for any CPU, and shaped so that real faults show: groups and top-4 of 2 groups (the one ratio at which
Megatron-Core and HuggingFace agree), yarn with mscale unlike mscale_all_dim, 32 rotary elements so that every yarn
number matters, a head count unlike every rank."""

MINI = Preset(
    name="mini",
    model=Model(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=2816,
        moe_intermediate_size=512,
        num_hidden_layers=6,
        first_k_dense_replace=1,
        num_attention_heads=16,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        q_lora_rank=512,
        kv_lora_rank=128,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        mscale=1.0,
        mscale_all_dim=0.707,
    ),
    batch_size=2,
    micro_batch_size=1,
    seq_length=512,
)
"""The size of the guide that Plumbline replaces: 180 M parameters, minutes on two CPU cores, seconds on a GPU."""

V3_LAYERS = Preset(
    name="v3-layers",
    model=Model(
        vocab_size=32768,
        hidden_size=7168,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=128,
        n_routed_experts=256,
        num_experts_per_tok=8,
        n_group=8,
        topk_group=4,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        mscale=1.0,
        mscale_all_dim=1.0,
    ),
    batch_size=2,
    micro_batch_size=1,
    seq_length=4096,
    stream=True,
)
"""DeepSeek-V3's own layers, one dense and one with experts, and its yarn (report's config.json: factor 40 over 4096 positions,
mscale and mscale_all_dim 1). Only the vocabulary is small. Weights are made where they are used, from the seed."""

V3 = Preset(
    name="v3",
    model=replace(
        V3_LAYERS.model,
        vocab_size=129280,
        num_hidden_layers=61,
        first_k_dense_replace=3,
        num_nextn_predict_layers=1,
    ),
    batch_size=1,
    micro_batch_size=1,
    seq_length=1024,
    stream=True,
)
"""All of DeepSeek-V3: 671 billion parameters, and the 11.5 billion of its MTP layer."""

PRESETS = {preset.name: preset for preset in (TINY, MINI, V3_LAYERS, V3)}


def preset(name: str) -> Preset:
    """The preset called `name`. Raises UsageError."""
    if name not in PRESETS:
        raise UsageError(f"preset {name!r} is unknown; known are {', '.join(PRESETS)}, or --hf-model-path for a checkpoint")
    return PRESETS[name]
