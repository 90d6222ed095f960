"""From a case to megatron-core's configuration."""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.transformer_config import MLATransformerConfig
from torch.nn import functional

from validation.candidate.versions import fields
from validation.case.case import Case
from validation.case.model import Model
from validation.case.mtp import LOSS_SCALE
from validation.case.training import ADAM, BALANCE_COEFFICIENT
from validation.compare.precision import DTYPES

SELECTIVE = ("core_attn", "layernorm", "shared_experts")
"""What is computed again under selective recompute."""


def transformer_config(case: Case) -> MLATransformerConfig:
    """The configuration of the case's model, with every fusion off that would change what is computed.

    `deallocate_pipeline_outputs` is off because with gloo a tensor's storage would be swapped while it is being sent.
    `perform_initialization` stays on: megatron-core marks tensor-parallel parameters only while initialising them.
    """
    wanted: dict[str, Any] = dict(
        **_geometry(case.model),
        **_rope(case.model),
        **_experts(case),
        **_mtp(case.model),
        **_parallel(case),
        params_dtype=DTYPES[case.precision],
        pipeline_dtype=DTYPES[case.precision],
        bf16=case.precision == "bf16",
        fp16=case.precision == "fp16",
        attention_dropout=0.0,
        hidden_dropout=0.0,
        calculate_per_token_loss=case.training.loss == "token",
        **_recompute(case),
        **_fp8(case),
        **_attention(case),
        deallocate_pipeline_outputs=False,
        use_cpu_initialization=False,
        perform_initialization=True,
        init_method=_left_alone,
        output_layer_init_method=_left_alone,
        embedding_init_method=_left_alone,
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        persist_layer_norm=False,
        cross_entropy_loss_fusion=False,
        barrier_with_L1_time=False,
    )
    return MLATransformerConfig(**fields(MLATransformerConfig, wanted))


def _left_alone(tensor: torch.Tensor) -> torch.Tensor:
    """No initial values: every tensor is filled with NaN and then from the checkpoint."""
    return tensor


def _geometry(model: Model) -> dict[str, Any]:
    return {
        "num_layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "ffn_hidden_size": model.intermediate_size,
        "layernorm_epsilon": model.rms_norm_eps,
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "gated_linear_unit": True,
        "activation_func": functional.silu,
        "multi_latent_attention": True,
        "qk_layernorm": True,
        "q_lora_rank": model.q_lora_rank,
        "kv_lora_rank": model.kv_lora_rank,
        "qk_head_dim": model.qk_nope_head_dim,
        "qk_pos_emb_head_dim": model.qk_rope_head_dim,
        "v_head_dim": model.v_head_dim,
    }


def _rope(model: Model) -> dict[str, Any]:
    """Multi-latent attention multiplies the softmax scale by mscale(rotary_scaling_factor) without yarn, too: hence the 1."""
    if model.rope_type != "yarn":
        return {"rope_type": "rope", "rotary_base": model.rope_theta, "rotary_scaling_factor": 1.0, "mscale_all_dim": 0.0}
    return {
        "rope_type": "yarn",
        "rotary_base": model.rope_theta,
        "rotary_scaling_factor": model.rope_factor,
        "original_max_position_embeddings": model.original_max_position_embeddings,
        "beta_fast": model.beta_fast,
        "beta_slow": model.beta_slow,
        "mscale": mscale(model),
        "mscale_all_dim": model.mscale_all_dim,
    }


def mscale(model: Model) -> float:
    """The number with which megatron-core scales cos and sin as transformers does.

    megatron-core multiplies them by m(mscale) / m(mscale_all_dim), m(x) = 1 + 0.1 x log(factor), whatever the two are. To
    transformers one that is 0 or not there is none, and it multiplies by m(1): the ratio that 1 + y + 0.1 y log(factor) makes
    where y is mscale_all_dim.
    """
    if model.mscale and model.mscale_all_dim:
        return model.mscale
    return 1.0 + model.mscale_all_dim * (1.0 + 0.1 * math.log(max(1.0, model.rope_factor)))


def _experts(case: Case) -> dict[str, Any]:
    model = case.model
    if not model.moe_layers:
        return {}
    shared = model.n_shared_experts * model.moe_intermediate_size
    return {
        "num_moe_experts": model.n_routed_experts,
        "moe_layer_freq": [0] * len(model.dense_layers) + [1] * len(model.moe_layers),
        "moe_ffn_hidden_size": model.moe_intermediate_size,
        "moe_shared_expert_intermediate_size": shared or None,
        "moe_router_topk": model.num_experts_per_tok,
        "moe_router_num_groups": model.n_group,
        "moe_router_group_topk": model.topk_group,
        "moe_router_topk_scaling_factor": model.routed_scaling_factor,
        "moe_router_score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": ADAM.bias_update_rate if case.training.steps else 0.0,
        "moe_router_pre_softmax": True,
        "moe_router_dtype": case.precision if case.precision == "fp64" else "fp32",
        **_balancing(case),
        "moe_token_dispatcher_type": case.training.dispatcher,
        "moe_grouped_gemm": case.training.experts == "grouped" or (case.training.experts == "default" and case.uses_te),
    }


def _balancing(case: Case) -> dict[str, Any]:
    kind = case.training.balancing
    if kind == "z_loss":
        return {"moe_router_load_balancing_type": "none", "moe_aux_loss_coeff": 0.0, "moe_z_loss_coeff": BALANCE_COEFFICIENT}
    coefficient = BALANCE_COEFFICIENT if kind != "none" else 0.0
    return {"moe_router_load_balancing_type": kind, "moe_aux_loss_coeff": coefficient}


def _recompute(case: Case) -> dict[str, Any]:
    if case.training.recompute == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    if case.training.recompute == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": list(SELECTIVE)}
    return {}


def _fp8(case: Case) -> dict[str, Any]:
    """Which products are in fp8 is Transformer Engine's: those of its linear layers, of experts, too.

    Formats are those that each recipe is known with: gradients in e5m2 under delayed scaling, all in e4m3 with blocks, as
    DeepSeek-V3 is trained. The rest of delayed scaling is megatron-core's default: the scale comes from the largest magnitude
    of the step before.
    """
    formats = {"delayed": "hybrid", "blockwise": "e4m3"}
    fp8 = case.training.fp8
    return {} if fp8 == "none" else {"fp8": formats[fp8], "fp8_recipe": fp8}


def _attention(case: Case) -> dict[str, Any]:
    """The core attention of Transformer Engine where the implementation names it; else megatron-core's default, its choice."""
    _, _, kind = case.implementation.partition("-")
    return {"attention_backend": AttnBackend[kind]} if case.uses_te and kind else {}


def _stages(case: Case) -> dict[str, Any]:
    """Uneven pipeline stages: megatron-core has a number for the first and one for the last; the rest share alike."""
    if not case.training.stages:
        return {}
    return {
        "num_layers_in_first_pipeline_stage": case.training.stages[0],
        "num_layers_in_last_pipeline_stage": case.training.stages[-1],
    }


def _mtp(model: Model) -> dict[str, Any]:
    """The weight is said although megatron-core has a default, which has been another before."""
    layers = model.num_nextn_predict_layers
    return {"mtp_num_layers": layers, "mtp_loss_scaling_factor": LOSS_SCALE} if layers else {}


def _parallel(case: Case) -> dict[str, Any]:
    layout = case.layout
    return {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp if layout.vpp > 1 else None,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.expert_tp if layout.etp is not None or layout.ep > 1 else None,
        "context_parallel_size": layout.cp,
        "sequence_parallel": layout.uses_sequence_parallel,
        **_stages(case),
        "overlap_p2p_comm": layout.vpp > 1,
        "batch_p2p_comm": layout.vpp == 1,
    }
