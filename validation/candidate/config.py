"""From a case to megatron-core's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.transformer_config import MLATransformerConfig
from torch.nn import functional

from validation.candidate import sparse
from validation.candidate.overlapped import FIELD
from validation.candidate.typed import typed
from validation.candidate.versions import fields
from validation.case.case import Case
from validation.case.families import GREEDY
from validation.case.inference import uses_sequence_parallel
from validation.case.model import Model
from validation.case.rotary import mscale
from validation.compare.precision import DTYPES


def transformer_config(case: Case) -> MLATransformerConfig:
    """The configuration of the case's model, with every fusion off that would change what is computed."""
    return made(arguments(case))


def made(wanted: Mapping[str, Any]) -> MLATransformerConfig:
    """The configuration of these arguments.

    For a schedule of parts megatron-core asks for half precision. In fp64, which it does not know, it is told of bf16 until it
    has looked at the rest: the schedule is the same.
    """
    told = {"bf16": True} if wanted["params_dtype"] is torch.float64 and wanted.get(FIELD) else {}
    found = MLATransformerConfig(**{**wanted, **told})
    found.bf16 = wanted["bf16"]
    return found


def arguments(case: Case) -> dict[str, Any]:
    """What the configuration is made from.

    What does not follow from model, layout and precision stands in validation.case.settings.
    """
    wanted: dict[str, Any] = dict(
        **_geometry(case.model),
        **_rope(case.model),
        **_experts(case),
        **_mtp(case.model),
        **sparse.arguments(case),
        **_parallel(case),
        params_dtype=DTYPES[case.precision],
        pipeline_dtype=DTYPES[case.precision],
        bf16=case.precision == "bf16",
        fp16=case.precision == "fp16",
        **_attention(case),
        init_method=_left_alone,
        output_layer_init_method=_left_alone,
        embedding_init_method=_left_alone,
    )
    return typed(MLATransformerConfig, fields(MLATransformerConfig, wanted | _settings(case)))


def _settings(case: Case) -> dict[str, Any]:
    """What options and settings say of the model's configuration.

    Without steps the expert bias stays. If there are no experts or no MTP layers, nothing is said of them, and nothing of what
    Plumbline leaves to megatron-core.
    """
    given = dict(case.training.settings)
    found = {
        name: value for name, value in case.training.effective("model").items() if value is not None or f"model.{name}" in given
    }
    if not case.training.steps:
        found["moe_router_bias_update_rate"] = 0.0
    there = {"moe_": case.model.moe_layers, "mtp_": case.model.mtp_layers}
    foreign = tuple(prefix for prefix, layers in there.items() if not layers)
    return {name: value for name, value in found.items() if not name.startswith(foreign)} | _softmax(case)


def _softmax(case: Case) -> dict[str, Any]:
    """DeepSeek-V2's router: a softmax over all experts, no bias, weights as they come. Without groups if it is greedy."""
    model = case.model
    if model.sigmoid or not model.moe_layers:
        return {}
    found = {"moe_router_score_function": "softmax", "moe_router_pre_softmax": True, "moe_router_enable_expert_bias": False}
    return found | ({"moe_router_num_groups": None, "moe_router_group_topk": None} if model.topk_method == GREEDY else {})


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
        "moe_router_dtype": case.precision if case.precision == "fp64" else "fp32",
        "moe_grouped_gemm": case.uses_te,
    }


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
    layers = model.num_nextn_predict_layers
    return {"mtp_num_layers": layers} if layers else {}


def _parallel(case: Case) -> dict[str, Any]:
    layout = case.layout
    return {
        "tensor_model_parallel_size": layout.tp,
        "pipeline_model_parallel_size": layout.pp,
        "virtual_pipeline_model_parallel_size": layout.vpp if layout.vpp > 1 else None,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.expert_tp if layout.etp is not None or layout.ep > 1 else None,
        "context_parallel_size": layout.cp,
        "sequence_parallel": uses_sequence_parallel(case),
        **_stages(case),
        "overlap_p2p_comm": layout.vpp > 1,
        "batch_p2p_comm": layout.vpp == 1,
    }
