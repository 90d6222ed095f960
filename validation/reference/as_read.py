"""Whether transformers makes the same model of a folder's config.json as was read there: its numbers and its positions."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from validation.case.errors import UsageError
from validation.case.families import Family, described
from validation.case.folder import model_from_folder, read_config
from validation.case.model import INDEXER, Model
from validation.case.plural import many
from validation.case.strangers import quoted, shown
from validation.reference import rotary
from validation.reference.model import hf_config

_NUMBERS = (
    *("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "kv_lora_rank", "q_lora_rank"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "routed_scaling_factor", "rms_norm_eps", "tie_word_embeddings"),
    *("hidden_act", "attention_bias"),
)
"""What every family's class has, and the model goes by."""
_ROUTING = ("n_group", "topk_group")
_OF_SIGMOID = ("norm_topk_prob", "rope_interleave")
_FILES = {"DeepseekV3": "deepseek_v3", "DeepseekV2": "deepseek_v2", "Glm4MoeLite": "glm4_moe_lite"} | {
    "DeepseekV32": "deepseek_v32",
    "GlmMoeDsa": "glm_moe_dsa",
}
"""transformers' modules by the beginning of their classes' names."""


def check(model: Model, folder: Path) -> None:
    """Raises UsageError where the reference would not be the model that transformers loads from the folder.

    `model` may have some of its layers.
    """
    found = described(read_config(folder), str(folder))
    parts = Parts(found.family)
    try:
        theirs = parts.config(found.config)
    except Exception as error:  # what transformers says of settings that Plumbline does not read
        said = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{folder}: transformers cannot read config.json ({shown(said)}); download it again") from None
    _check_numbers(model_from_folder(folder), theirs, folder)
    rotary.check(hf_config(model.attending_to_all), theirs, parts, folder)


class Parts:
    """transformers' own classes of a family."""

    def __init__(self, family: Family) -> None:
        self._prefix = family.reference.removesuffix("ForCausalLM")
        self._module = _FILES[self._prefix]

    def config(self, said: Mapping[str, Any]) -> PreTrainedConfig:
        """What the class makes of a config.json."""
        kind: type[PreTrainedConfig] = self.of("configuration", "Config")
        own = {name: value for name, value in said.items() if name not in ("model_type", "auto_map", "quantization_config")}
        # transformers changes what it is given.
        found: PreTrainedConfig = kind.from_dict(json.loads(json.dumps(own)))
        return found

    def of(self, kind: str, name: str) -> Any:
        """A class of `modeling` or `configuration` by the end of its name."""
        module = importlib.import_module(f"transformers.models.{self._module}.{kind}_{self._module}")
        return getattr(module, f"{self._prefix}{name}")


def _check_numbers(model: Model, theirs: PreTrainedConfig, folder: Path) -> None:
    ours = hf_config(model)
    # The classes of sparse attention have no other way to rotate.
    names = [*_NUMBERS, *(_OF_SIGMOID[: 1 if model.sparse else None] if model.sigmoid else ())]
    names += INDEXER[:-1] if model.sparse else ()
    names += _ROUTING if model.sigmoid or model.topk_method != "greedy" else ()
    for name in names:
        one, two = getattr(theirs, name, None), getattr(ours, name)
        if one != two:
            raise UsageError(
                f"{folder}: transformers reads {name} in config.json as {quoted(one)} and Plumbline as "
                f"{quoted(two)}; write it there"
            )
    if not model.sigmoid and theirs.topk_method != model.topk_method:
        raise UsageError(f"{folder}: transformers reads topk_method as {quoted(theirs.topk_method)}; write it in config.json")
    _check_layers(model, theirs, folder)


def _check_layers(model: Model, theirs: PreTrainedConfig, folder: Path) -> None:
    """Which layers have experts: a number in most families, a list in GLM's."""
    kinds = getattr(theirs, "mlp_layer_types", None)
    dense = (
        [kind == "dense" for kind in kinds]
        if kinds
        else [layer < (theirs.first_k_dense_replace or 0) for layer in range(theirs.num_hidden_layers)]
    )
    if dense != [layer in model.dense_layers for layer in range(model.num_hidden_layers)]:
        raise UsageError(
            f"{folder}: transformers reads {many(sum(dense), 'layer')} without experts in config.json and Plumbline "
            f"{len(model.dense_layers)}; let first_k_dense_replace and mlp_layer_types say the same"
        )
