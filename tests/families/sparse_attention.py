"""The sparse attention of DeepSeek-V3.2 in megatron-core and in transformers, with the same weights, in float64 on one rank.

`python -m tests.families.sparse_attention` prints JSON: by how much output and gradients differ, relative to their norms, and
whether the indexer has a gradient. It needs megatron-core 0.19. Nothing of it is changed. Its layer spec asks for Transformer
Engine, so the parts are given here.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from validation.compare.precision import computing_in

HEADS, ROPE, HIDDEN, QUERY_LATENT, LATENT, LENGTH = 4, 8, 64, 24, 16, 32
INDEX_HEADS, INDEX_SIZE, TOPK = 4, 16, 8
NAMES = {
    "linear_q_down_proj.weight": "q_a_proj.weight",
    "q_layernorm.weight": "q_a_layernorm.weight",
    "linear_q_up_proj.weight": "q_b_proj.weight",
    "linear_kv_down_proj.weight": "kv_a_proj_with_mqa.weight",
    "kv_layernorm.weight": "kv_a_layernorm.weight",
    "linear_kv_up_proj.weight": "kv_b_proj.weight",
    "linear_proj.weight": "o_proj.weight",
    "core_attention.indexer.linear_wq_b.weight": "indexer.wq_b.weight",
    "core_attention.indexer.linear_wk.weight": "indexer.wk.weight",
    "core_attention.indexer.k_norm.weight": "indexer.k_norm.weight",
    "core_attention.indexer.k_norm.bias": "indexer.k_norm.bias",
    "core_attention.indexer.linear_weights_proj.weight": "indexer.weights_proj.weight",
}
"""megatron-core's parameters and HuggingFace's: the same tensors, none permuted."""


class Linear(torch.nn.Linear):
    """What the indexer has: whole on every rank, returns its bias, too."""

    def __init__(self, inside: int, outside: int, *, bias: bool, **_: Any) -> None:
        super().__init__(inside, outside, bias=bias)

    def forward(self, tensor: torch.Tensor) -> Any:
        """The product, and no bias."""
        return super().forward(tensor), None


class LayerNorm(torch.nn.LayerNorm):
    """The norm of the indexer's key, with megatron-core's arguments."""

    def __init__(self, config: Any, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps=eps)


class RMSNorm(torch.nn.RMSNorm):
    """The norms of the latents, with megatron-core's arguments."""

    def __init__(self, config: Any, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps=eps)


def of_megatron() -> Any:
    """The attention of megatron-core."""
    from megatron.core import parallel_state as mpu
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.experimental_attention_variant import absorbed_mla, dsa
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    mpu.initialize_model_parallel()
    config: Any = MLATransformerConfig(
        num_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        multi_latent_attention=True,
        q_lora_rank=QUERY_LATENT,
        kv_lora_rank=LATENT,
        qk_head_dim=16,
        qk_pos_emb_head_dim=ROPE,
        v_head_dim=16,
        normalization="RMSNorm",
        qk_layernorm=True,
        add_bias_linear=False,
        layernorm_epsilon=1e-6,
        rope_type="rope",
        rotary_base=10000.0,
        rotary_scaling_factor=1.0,
        mscale_all_dim=0.0,
        params_dtype=torch.float64,
        use_cpu_initialization=True,
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        experimental_attention_variant="dsa",
        **{f"dsa_indexer_{name}": value for name, value in _indexer().items()},
    )
    linears = {"linear_wq_b": Linear, "linear_wk": Linear, "linear_weights_proj": Linear}
    indexer = ModuleSpec(module=dsa.DSAIndexer, submodules=dsa.DSAIndexerSubmodules(k_norm=LayerNorm, **linears))
    core = ModuleSpec(module=dsa.DSAttention, submodules=dsa.DSAttentionSubmodules(indexer=indexer))
    columns = ("q_proj", "q_down_proj", "q_up_proj", "kv_down_proj", "kv_up_proj")
    parts = absorbed_mla.AbsorbedMLASelfAttentionSubmodules(
        core_attention=core,
        linear_proj=RowParallelLinear,
        q_layernorm=RMSNorm,
        kv_layernorm=RMSNorm,
        **{f"linear_{name}": ColumnParallelLinear for name in columns},
    )
    groups = ProcessGroupCollection.use_mpu_process_groups()
    made: Any = absorbed_mla.AbsorbedMLASelfAttention(
        config, parts, 1, attn_mask_type=AttnMaskType.causal, pg_collection=groups
    )
    return made.double()


def _indexer() -> dict[str, Any]:
    """The rotation (Hadamard) is orthogonal, and in bf16 alone: transformers has none. Its norm has an epsilon of its own."""
    sizes = {"n_heads": INDEX_HEADS, "head_dim": INDEX_SIZE, "topk": TOPK}
    return {**sizes, "rotate_activation": False, "rope_interleaved": False, "k_norm_epsilon": 1e-6}


def of_transformers() -> tuple[Any, Any]:
    """HuggingFace's attention, with its rotary embedding."""
    from transformers import DeepseekV32Config
    from transformers.models.deepseek_v32 import modeling_deepseek_v32 as hf

    config = DeepseekV32Config(
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        q_lora_rank=QUERY_LATENT,
        kv_lora_rank=LATENT,
        qk_rope_head_dim=ROPE,
        qk_nope_head_dim=16,
        v_head_dim=16,
        index_n_heads=INDEX_HEADS,
        index_head_dim=INDEX_SIZE,
        index_topk=TOPK,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    return hf.DeepseekV32Attention(config, 0).double(), hf.DeepseekV32RotaryEmbedding(config)


def differences() -> dict[str, Any]:
    """By what is compared: the norm of the difference over the norm of HuggingFace's."""
    ours, (theirs, rotary) = of_megatron(), of_transformers()
    torch.manual_seed(3)
    named, known = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert (set(named), set(known)) == (set(NAMES), set(NAMES.values()))
    with torch.no_grad():
        for name, tensor in known.items():
            torch.nn.init.normal_(tensor, 1.0 if "norm.weight" in name else 0.0, 0.2)
        for name, other in NAMES.items():
            named[name].copy_(known[other])
    given, gradient = (torch.randn(2, LENGTH, HIDDEN, dtype=torch.float64) for _ in range(2))
    one, two = given.clone().requires_grad_(), given.transpose(0, 1).contiguous().requires_grad_()
    positions = torch.arange(LENGTH)[None]
    mask = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1).expand(2, 1, LENGTH, LENGTH)
    expected = theirs(one, rotary(one, positions), mask, position_ids=positions)[0]
    found = ours(two, None)[0]
    torch.autograd.backward(expected, gradient)
    torch.autograd.backward(found, gradient.transpose(0, 1).contiguous())
    trained = {other: (named[name].grad, known[other].grad) for name, other in NAMES.items() if "indexer" not in other}
    pairs: dict[str, Any] = {
        "output": (found.transpose(0, 1), expected),
        "input": (two.grad.transpose(0, 1), one.grad),  # type: ignore[union-attr]
        **trained,
    }
    of_indexer = [tensor for name, other in NAMES.items() if "indexer" in other for tensor in (named[name], known[other])]
    return {
        "differences": {name: float((a - b).norm() / b.norm()) for name, (a, b) in pairs.items()},
        "indexer has a gradient": any(tensor.grad is not None for tensor in of_indexer),
    }


if __name__ == "__main__":
    with computing_in("fp64"):
        sys.stdout.write(json.dumps(differences()) + "\n")
