"""The families of models: what each is read as, and of those that cannot be compared which part is missing. No torch.

A family is told by `model_type` in config.json. docs/families.md is made of this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from validation.case.errors import UsageError
from validation.case.strangers import quoted

SIGMOID, GREEDY, GROUP_LIMITED = "noaux_tc", "greedy", "group_limited_greedy"
"""Values of `topk_method`: DeepSeek-V3's sigmoid scores with a bias, and DeepSeek-V2's two choices by softmax scores."""

MTP_LAYERS, _MTP_OF_TRANSFORMERS = "num_nextn_predict_layers", "num_mtp_layers"
"""The number of MTP layers in config.json, as it is published and as transformers 5 calls it, too."""


@dataclass(frozen=True)
class Family:
    """One that is compared. `reference` is transformers' class; `proven` another of transformers' that computes the same.

    `defaults` are what transformers takes if config.json lacks a key; `fixed` are values that nobody reads otherwise. `nested`
    names the part of config.json that describes the model of text.
    """

    model_type: str
    title: str
    reference: str
    differs: str
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    nested: str = ""
    ignores_first_k_dense: bool = False
    topk_methods: tuple[str, ...] = (SIGMOID,)
    sparse: bool = False
    """Whether attention is sparse (DSA): only then are the indexer's numbers of the model."""
    written_as: str = ""
    """The model_type of a folder of the nested model alone."""


_V3: Mapping[str, Any] = {
    "q_lora_rank": 1536,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 4096,
    "topk_method": SIGMOID,
}
_V2: Mapping[str, Any] = {
    "q_lora_rank": 1536,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "first_k_dense_replace": 0,
    "topk_method": GREEDY,
    "n_group": 1,
    "topk_group": 1,
}
_GLM: Mapping[str, Any] = {
    "q_lora_rank": 768,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 202752,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": SIGMOID,
}
_DSA: Mapping[str, Any] = {**_V3, "max_position_embeddings": 163840, "index_topk": 2048, "index_head_dim": 128}
_V32: Mapping[str, Any] = {**_DSA, "first_k_dense_replace": 3, "index_n_heads": 64, "indexer_rope_interleave": False}
_GLM5: Mapping[str, Any] = {
    **_DSA,
    "q_lora_rank": 2048,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 202752,
    "first_k_dense_replace": 3,
    "n_group": 1,
    "topk_group": 1,
    "index_n_heads": 32,
    "indexer_rope_interleave": True,
}
_SIGMOID: Mapping[str, Any] = {"scoring_func": "sigmoid", "norm_topk_prob": True, "rope_interleave": True}
_SOFTMAX: Mapping[str, Any] = {"scoring_func": "softmax", "norm_topk_prob": False}
_OF_V3 = "DeepseekV3ForCausalLM"

FAMILIES = {
    one.model_type: one
    for one in (
        Family("deepseek_v3", "DeepSeek-V3, R1, V3.1, Moonlight", _OF_V3, "the model that others are read as", _V3, _SIGMOID),
        Family(
            "kimi_k2",
            "Kimi-K2",
            _OF_V3,
            "the name; its own code is DeepSeek-V3's, and transformers loads it as that",
            _V3,
            _SIGMOID,
        ),
        Family(
            "kimi_k25",
            "Kimi-K2.5, the model of text",
            _OF_V3,
            "text_config and the prefix `language_model.`; the vision tower is set aside",
            _V3,
            _SIGMOID,
            nested="text_config",
            written_as="deepseek_v3",
        ),
        Family(
            "glm4_moe_lite",
            "GLM-4.7-Flash",
            "Glm4MoeLiteForCausalLM",
            "the class's name; layers with experts are said by mlp_layer_types",
            _GLM,
            _SIGMOID,
            ignores_first_k_dense=True,
        ),
        Family(
            "deepseek_v2",
            "DeepSeek-V2, V2-Lite",
            "DeepseekV2ForCausalLM",
            "softmax scores that are not normalised, no expert bias; groups by their best expert",
            _V2,
            _SOFTMAX,
            topk_methods=(GREEDY, GROUP_LIMITED),
        ),
        Family(
            "deepseek_v32",
            "DeepSeek-V3.2",
            "DeepseekV32ForCausalLM",
            "sparse attention (DSA): an indexer chooses the keys of each query; it rotates halves of its first elements",
            _V32,
            {**_SIGMOID, "indexer_rope_interleave": False},
            sparse=True,
        ),
        Family(
            "glm_moe_dsa",
            "GLM-5",
            "GlmMoeDsaForCausalLM",
            "sparse attention (DSA), whose indexer rotates interleaved pairs; no groups, no yarn",
            _GLM5,
            {**_SIGMOID, "indexer_rope_interleave": True},
            sparse=True,
        ),
    )
}


@dataclass(frozen=True)
class Refused:
    """One that is not compared: the part that is missing, and a family that is near and is."""

    title: str
    part: str
    near: str = "deepseek_v3"


_GROUPED = "it has grouped-query attention, and Plumbline compares multi-latent attention"
REFUSED: Mapping[str, Refused] = {
    "deepseek_v4": Refused("DeepSeek-V4", "it has hyper-connections, compressed attention and hash routing"),
    "glm5_next": Refused("GLM-5-Next", "most of its layers have linear attention (KDA)", "glm4_moe_lite"),
    "kimi_linear": Refused("Kimi-Linear", "most of its layers have linear attention (KDA)", "kimi_k2"),
    "longcat_flash": Refused("LongCat-Flash", "each layer has two attentions, and some experts are no network (zero experts)"),
    "mistral4": Refused("Mistral 4", "its softmax is scaled by position (llama_4_scaling_beta)", "deepseek_v2"),
    "qwen3_moe": Refused("Qwen3-MoE", _GROUPED),
    "qwen2_moe": Refused("Qwen2-MoE", _GROUPED),
    "qwen3_next": Refused("Qwen3-Next", "most of its layers have linear attention"),
    "glm4_moe": Refused("GLM-4.5", _GROUPED, "glm4_moe_lite"),
    "mixtral": Refused("Mixtral", _GROUPED),
    "gpt_oss": Refused("gpt-oss", _GROUPED),
    "minimax_m2": Refused("MiniMax-M2", _GROUPED),
    "llama": Refused("Llama", _GROUPED),
    "qwen3": Refused("Qwen3", _GROUPED),
    "qwen2": Refused("Qwen2", _GROUPED),
}
"""Published families with a mixture of experts, and the dense ones that are tried most."""

FOREIGN: Mapping[str, tuple[str, str]] = {
    "index_topk": ("the indexer of sparse attention", "deepseek_v32"),
    "index_n_heads": ("the indexer of sparse attention", "deepseek_v32"),
    "index_head_dim": ("the indexer of sparse attention", "deepseek_v32"),
    "linear_attn_config": ("layers of linear attention", "kimi_linear"),
    "mla_use_nope": ("attention without rotary positions", "kimi_linear"),
    "zero_expert_num": ("experts that are no network", "longcat_flash"),
    "mla_scale_q_lora": ("a scale of the query latent", "longcat_flash"),
    "mla_scale_kv_lora": ("a scale of the KV latent", "longcat_flash"),
    "use_qk_norm": ("norms of query and key", "glm4_moe"),
    "hc_mult": ("hyper-connections", "deepseek_v4"),
    "text_config": ("a model of text within another", "kimi_k25"),
    "sliding_window": ("attention within a window", "mistral"),
}
"""Keys of other families, with what they switch on. In a family that is compared transformers reads none of them."""


@dataclass(frozen=True)
class Described:
    """A family with the part of config.json that describes its model of text."""

    family: Family
    config: Mapping[str, Any] = field(default_factory=dict)


def described(config: Mapping[str, Any], source: str) -> Described:
    """The family of a config.json. Raises UsageError, naming `source`, for one that is not compared."""
    found = FAMILIES.get(config["model_type"]) if isinstance(config.get("model_type"), str) else None
    if found is None:
        raise UsageError(f"{source}: {_refusal(config)}")
    if not found.nested:
        return Described(found, _mtp_by_one_name(config, source))
    nested = config.get(found.nested)
    if not isinstance(nested, dict):
        raise UsageError(f"{source}: {found.nested} in config.json is {quoted(nested)}; {found.title} has its model there")
    inner = nested.get("model_type", "deepseek_v3")
    if inner not in ("deepseek_v3", "kimi_k2"):
        raise UsageError(
            f"{source}: model_type in {found.nested} is {quoted(inner)}; of {found.title} deepseek_v3 and kimi_k2 are compared"
        )
    beside = {name: config[name] for name in ("tie_word_embeddings", "quantization_config") if name in config}
    return Described(found, _mtp_by_one_name({**nested, **beside, "model_type": found.written_as}, source))


def _mtp_by_one_name(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """The config with the number of MTP layers as it is published. Raises UsageError if transformers' own name says another."""
    if config.get(_MTP_OF_TRANSFORMERS) is None:
        return config
    found = {name: value for name, value in config.items() if name != _MTP_OF_TRANSFORMERS}
    number = config[_MTP_OF_TRANSFORMERS]
    if found.setdefault(MTP_LAYERS, number) != number:
        raise UsageError(
            f"{source}: config.json has {MTP_LAYERS} {quoted(found[MTP_LAYERS])} and {_MTP_OF_TRANSFORMERS} {quoted(number)}, "
            "one number to transformers; keep one"
        )
    return found


def _refusal(config: Mapping[str, Any]) -> str:
    name = config.get("model_type")
    known = REFUSED.get(name) if isinstance(name, str) else None
    if known is None:
        latent = "kv_lora_rank" in config
        part = "Plumbline does not know this family" + ("" if latent else ", and nothing in it names multi-latent attention")
        return f"model_type is {quoted(name)}: {part}; those that are compared are {', '.join(FAMILIES)}"
    near = FAMILIES[known.near].title
    return (
        f"{known.title} (model_type {quoted(name)}) is not compared: {known.part}; the nearest family that is compared is "
        f"{known.near} ({near})"
    )
