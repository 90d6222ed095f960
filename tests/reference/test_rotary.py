"""The reference's positions are those of the model that transformers loads from the same folder, or the folder is refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding

import tests.core  # noqa: F401 - before anything of megatron-core
from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
from validation.case.preset import TINY
from validation.case.rotary import mscale
from validation.reference import as_read
from validation.reference.model import hf_config

core: Any = importlib.import_module("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding")
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096}
_OF_YARN = ("rope_type", "rope_theta", "rope_factor", "original_max_position_embeddings", "beta_fast", "beta_slow")


def folder(place: Path, rope: dict[str, Any], **changes: Any) -> Path:
    """Holds tiny's config.json with these rotary settings."""
    numbers = {
        name: number for name, number in TINY.model.as_dict().items() if name not in (*_OF_YARN, "mscale", "mscale_all_dim")
    }
    heads = {"num_key_value_heads": TINY.model.num_attention_heads}
    config = {"model_type": "deepseek_v3", **numbers, **heads, "rope_parameters": rope, **changes}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return place


@pytest.mark.parametrize("one", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("all_dim", [None, 0.0, 0.707, 1.0])
@pytest.mark.parametrize("factor", [1.0, 40.0])
def test_both_sides_scale_cos_and_sin_as_transformers_does(
    tmp_path: Path, one: float | None, all_dim: float | None, factor: float
) -> None:
    """A number that config.json lacks is not the number 1: transformers goes by another formula."""
    given = {name: number for name, number in (("mscale", one), ("mscale_all_dim", all_dim)) if number is not None}
    place = folder(tmp_path, {**YARN, "factor": factor, **given})
    model = model_from_folder(place)
    loaded = DeepseekV3RotaryEmbedding(DeepseekV3Config.from_pretrained(place)).attention_scaling
    assert DeepseekV3RotaryEmbedding(hf_config(model)).attention_scaling == loaded
    made = core._yarn_get_concentration_factor(model.rope_factor, mscale(model), model.mscale_all_dim)
    assert made == pytest.approx(loaded, rel=1e-15)
    as_read.check(model, place)


def test_a_folder_of_which_transformers_makes_other_positions_is_refused(tmp_path: Path) -> None:
    """The sentence says what is other, and what would work."""
    place = folder(tmp_path, {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0}, partial_rotary_factor=0.5)
    with pytest.raises(UsageError, match="other angles per position") as refused:
        as_read.check(model_from_folder(place), place)
    assert "it can be compared" in str(refused.value)


def test_another_softmax_scale_is_refused(tmp_path: Path) -> None:
    """Alone, where cos and sin are scaled alike."""
    place = folder(tmp_path, {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7})
    other = TINY.model.with_numbers({"mscale": "0.9", "mscale_all_dim": "0.9"})
    with pytest.raises(UsageError, match="a scale of the softmax of"):
        as_read.check(other, place)
