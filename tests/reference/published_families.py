"""config.json of each family that is compared, in the spelling in which it is published, with small numbers."""

from __future__ import annotations

from typing import Any

YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0}
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "kv_lora_rank": 12,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
}
BESIDE: dict[str, Any] = {
    "architectures": ["ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pretraining_tp": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0",
    "use_cache": True,
    "moe_layer_freq": 1,
    "ep_size": 1,
}
V3: dict[str, Any] = {
    **SIZES,
    **BESIDE,
    "model_type": "deepseek_v3",
    "n_group": 4,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "rope_theta": 10000,
    "rope_scaling": {**YARN, "mscale_all_dim": 1.0},
    "num_nextn_predict_layers": 1,
}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
V2: dict[str, Any] = {
    **{name: value for name, value in V3.items() if name != "num_nextn_predict_layers"},
    "model_type": "deepseek_v2",
    "n_shared_experts": 2,
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "deepseek_v3": V3,
    "moonlight": {
        **V3,
        **ONE_GROUP,
        "q_lora_rank": None,
        "n_shared_experts": 2,
        "routed_scaling_factor": 2.446,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "rope_scaling": None,
        "num_nextn_predict_layers": 0,
    },
    "kimi_k2": {
        **V3,
        **ONE_GROUP,
        "model_type": "kimi_k2",
        "routed_scaling_factor": 2.827,
        "rope_theta": 50000.0,
        "rope_scaling": {**YARN, "factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale_all_dim": 1.0},
        "num_nextn_predict_layers": 0,
    },
    "glm4_moe_lite": {
        **V3,
        **ONE_GROUP,
        "model_type": "glm4_moe_lite",
        "routed_scaling_factor": 1.8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "partial_rotary_factor": 1.0,
        "pad_token_id": 0,
        "eos_token_id": [1, 2],
    },
    "deepseek_v2": {
        **V2,
        "topk_method": "group_limited_greedy",
        "num_experts_per_tok": 2,
        "routed_scaling_factor": 16.0,
    },
    "deepseek_v2_lite": {
        **V2,
        **ONE_GROUP,
        "topk_method": "greedy",
        "q_lora_rank": None,
        "routed_scaling_factor": 1.0,
    },
}
_INDEXER = {"index_head_dim": 16, "index_n_heads": 4, "index_topk": 5}
CONFIGS["deepseek_v32"] = {**V3, **_INDEXER, "model_type": "deepseek_v32"}
CONFIGS["glm_moe_dsa"] = {
    **{name: value for name, value in V3.items() if name not in ("rope_theta", "rope_scaling")},
    **ONE_GROUP,
    **_INDEXER,
    "model_type": "glm_moe_dsa",
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "indexer_rope_interleave": True,
}
CONFIGS["kimi_k25"] = {
    "model_type": "kimi_k25",
    "architectures": ["ForConditionalGeneration"],
    "text_config": {**CONFIGS["kimi_k2"], "rms_norm_eps": 1e-5},
    "tie_word_embeddings": False,
    "vision_config": {"hidden_size": 16},
}
