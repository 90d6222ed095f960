"""The geometry of a DeepSeek-V3-style model, in the words of a HuggingFace `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from validation.case.errors import UsageError
from validation.case.strangers import quoted, shown

MEGATRON_WORDS = {
    "num_layers": "num_hidden_layers",
    "mtp_num_layers": "num_nextn_predict_layers",
    "ffn_hidden_size": "intermediate_size",
    "moe_ffn_hidden_size": "moe_intermediate_size",
    "num_moe_experts": "n_routed_experts",
    "moe_router_topk": "num_experts_per_tok",
    "moe_router_num_groups": "n_group",
    "moe_router_group_topk": "topk_group",
    "moe_router_topk_scaling_factor": "routed_scaling_factor",
    "qk_head_dim": "qk_nope_head_dim",
    "qk_pos_emb_head_dim": "qk_rope_head_dim",
    "layernorm_epsilon": "rms_norm_eps",
    "rotary_base": "rope_theta",
    "rotary_scaling_factor": "rope_factor",
}
"""Megatron's words for the same numbers; `--set` takes either."""
ASKED_FOR = "num_nextn_predict_layers"
"""The number that is not taken from a `config.json`: a checkpoint's MTP layer is compared where that is asked for."""


@dataclass(frozen=True)
class Model:
    """Every number that shapes the model. Sizes are in elements, ranks and counts are plain integers.

    `num_nextn_predict_layers` counts the layers of multi-token prediction (MTP). They follow the others in the checkpoint's
    numbering, each with a block of its own, which always has experts.

    `mscale` is None where config.json gives none, which to transformers is not the same as any number.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    moe_intermediate_size: int
    num_hidden_layers: int
    first_k_dense_replace: int
    num_attention_heads: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_group: int
    topk_group: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_shared_experts: int = 1
    num_nextn_predict_layers: int = 0
    routed_scaling_factor: float = 2.5
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 163840
    rope_type: str = "yarn"
    rope_theta: float = 10000.0
    rope_factor: float = 40.0
    original_max_position_embeddings: int = 4096
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = 1.0
    mscale_all_dim: float = 0.0

    @property
    def query_head_dim(self) -> int:
        """Elements of one head of query or key: without position, then with rotary position."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """Layers with a plain MLP, counted from 0."""
        return tuple(range(min(self.first_k_dense_replace, self.num_hidden_layers)))

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Layers with a mixture of experts, counted from 0."""
        return tuple(range(len(self.dense_layers), self.num_hidden_layers))

    @property
    def mtp_layers(self) -> tuple[int, ...]:
        """Layers of multi-token prediction, counted on from those before them, as in the checkpoint."""
        return tuple(range(self.num_hidden_layers, self.num_hidden_layers + self.num_nextn_predict_layers))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Every layer with attention and an MLP or experts: the main model's and those of multi-token prediction."""
        return (*range(self.num_hidden_layers), *self.mtp_layers)

    @property
    def expert_blocks(self) -> tuple[int, ...]:
        """Every layer with a mixture of experts, those of multi-token prediction among them."""
        return (*self.moe_layers, *self.mtp_layers)

    def with_numbers(self, numbers: Mapping[str, str]) -> Model:
        """This model with some numbers replaced, each given as text. Raises UsageError for unknown names or values."""
        kinds = {field.name: field.type for field in fields(self)}
        changed: dict[str, Any] = {}
        for word, text in numbers.items():
            name = MEGATRON_WORDS.get(word, word)
            if name not in kinds:
                raise UsageError(f"--set {shown(word)}={shown(text)}: no such number; known are {', '.join(sorted(kinds))}")
            changed[name] = _number(word, text, str(kinds[name]))
        return replace(self, **changed)

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name, for JSON."""
        return asdict(self)


def _number(word: str, text: str, kind: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise UsageError(f"--set {word}={text}: write true or false")
        return text.lower() == "true"
    if text.lower() == "none" and "None" in kind:
        return None
    try:
        return int(text) if kind.startswith("int") else float(text)
    except ValueError:
        wanted = "a whole number" if kind.startswith("int") else "a number"
        raise UsageError(f"--set {word}={shown(text)}: {wanted} is needed") from None


def from_hf_config(config: Mapping[str, Any], source: str) -> Model:
    """The model that a HuggingFace `config.json` describes.

    Takes both spellings of the rotary settings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling`
    (transformers 4). Raises UsageError, naming `source`, where Megatron-Core has no counterpart.
    """
    if config.get("model_type") != "deepseek_v3":
        raise UsageError(
            f"{source}: the architecture is {quoted(config.get('model_type'))}; Plumbline compares DeepSeek-V3 models "
            "(model_type 'deepseek_v3')"
        )
    rope = _rope(config, source)
    _refuse_what_megatron_lacks(config, source)
    _refuse_rope(rope, source)
    names = [field.name for field in fields(Model) if field.name != ASKED_FOR]
    numbers = {name: config[name] for name in names if config.get(name) is not None}
    numbers.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    numbers.setdefault("max_position_embeddings", 4096)
    if not rope or rope.get("rope_type", rope.get("type")) in (None, "default"):
        numbers |= {"rope_type": "default", "rope_factor": 1.0, "mscale_all_dim": 0.0}
    else:
        numbers["rope_type"] = rope.get("rope_type", rope.get("type"))
        yarn = ("original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "rope_theta")
        numbers |= {"mscale": None} | {name: rope[name] for name in yarn if rope.get(name) is not None}
        # transformers falls back on the length of the model itself.
        numbers.setdefault("original_max_position_embeddings", numbers["max_position_embeddings"])
        numbers["rope_factor"] = rope["factor"]
    try:
        return Model(**numbers)
    except TypeError as error:
        raise UsageError(f"{source}: config.json lacks a number that DeepSeek-V3 needs ({shown(str(error))})") from None


def _rope(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        said = config.get(name)
        if said is not None and not isinstance(said, dict):
            raise UsageError(f"{source}: {name} in config.json is {quoted(said)}; it must be an object")
        found |= said or {}
    return found


def _refuse_what_megatron_lacks(config: Mapping[str, Any], source: str) -> None:
    refused = {
        "rope_interleave": (False, "Megatron-Core rotates interleaved pairs only"),
        "norm_topk_prob": (False, "Megatron-Core always normalises sigmoid scores"),
        "attention_bias": (True, "Megatron-Core's latent projections have no bias"),
    }
    for name, (value, reason) in refused.items():
        if config.get(name) is value:
            raise UsageError(f"{source}: {name} is {str(value).lower()}, which cannot be compared: {reason}")
    if config.get("hidden_act", "silu") != "silu":
        raise UsageError(f"{source}: hidden_act {quoted(config['hidden_act'])} cannot be compared; DeepSeek-V3 has 'silu'")
    if config.get("num_key_value_heads") not in (None, config.get("num_attention_heads")):
        raise UsageError(
            f"{source}: num_key_value_heads differs from num_attention_heads; multi-latent attention has one for each"
        )
    if config.get("attention_dropout"):
        raise UsageError(f"{source}: attention_dropout is not 0, and two models that drop at random cannot be compared")


def _refuse_rope(rope: Mapping[str, Any], source: str) -> None:
    kind = rope.get("rope_type", rope.get("type"))
    if kind not in (None, "default", "yarn"):
        raise UsageError(f"{source}: rope type {quoted(kind)} cannot be compared; Megatron-Core's MLA has 'yarn' and 'default'")
    if kind == "yarn" and (not isinstance(rope.get("factor"), (int, float)) or isinstance(rope["factor"], bool)):
        raise UsageError(f"{source}: yarn without a factor; config.json must give one")
    neutral: dict[str, tuple[Any, ...]] = {
        "attention_factor": (None,),
        "truncate": (None, True),
        "partial_rotary_factor": (None, 1, 1.0),
    }
    for name, values in neutral.items():
        if rope.get(name) not in values:
            raise UsageError(
                f"{source}: rope setting {name}={shown(rope[name])} has no counterpart in Megatron-Core; remove it to compare"
            )
