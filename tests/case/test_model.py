"""The model: from HuggingFace's words, and with numbers replaced."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from validation.case.errors import UsageError
from validation.case.model import MEGATRON_WORDS, Model
from validation.case.preset import TINY
from validation.case.published import from_hf_config

YARN = {
    "factor": 8.0,
    "mscale": 0.5,
    "mscale_all_dim": 0.7,
    "beta_fast": 16,
    "beta_slow": 2,
    "original_max_position_embeddings": 512,
}


def config(**changes: Any) -> dict[str, Any]:
    """Tiny's config.json without its rotary settings, with `changes`."""
    rope = ("rope_type", "rope_theta", "rope_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
    numbers = {name: value for name, value in TINY.model.as_dict().items() if name not in rope}
    del numbers["original_max_position_embeddings"]
    return {"model_type": "deepseek_v3", **numbers, **changes}


def test_both_spellings_of_the_rotary_settings_give_the_same_model() -> None:
    """Transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters."""
    old = config(rope_theta=5000.0, rope_scaling={"type": "yarn", **YARN})
    new = config(rope_parameters={"rope_type": "yarn", "rope_theta": 5000.0, **YARN})
    model = from_hf_config(old, "old")
    assert model == from_hf_config(new, "new")
    assert (model.rope_theta, model.rope_factor, model.mscale_all_dim, model.beta_slow) == (5000.0, 8.0, 0.7, 2)


def test_no_rotary_scaling_is_plain_rope() -> None:
    """Nothing of yarn is left behind."""
    model = from_hf_config(config(rope_theta=7.0, rope_scaling=None), "here")
    assert (model.rope_type, model.rope_theta, model.rope_factor, model.mscale_all_dim) == ("default", 7.0, 1.0, 0.0)


def test_a_model_without_query_compression_has_no_query_latent() -> None:
    """`null` in the file is None."""
    assert from_hf_config(config(q_lora_rank=None), "here").q_lora_rank is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({"rope_interleave": False}, "rope_interleave is false"),
        ({"norm_topk_prob": False}, "norm_topk_prob is false"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
    ],
)
def test_what_megatron_lacks_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    """The sentence names the file and the setting."""
    with pytest.raises(UsageError, match=f"somewhere: .*{said}"):
        from_hf_config(config(**changes), "somewhere")


def test_a_config_that_lacks_a_size_is_refused_with_its_name() -> None:
    """No default stands in for a size."""
    incomplete = config()
    del incomplete["kv_lora_rank"]
    with pytest.raises(UsageError, match="kv_lora_rank"):
        from_hf_config(incomplete, "here")


def test_numbers_are_replaced_under_either_name() -> None:
    """HuggingFace's and Megatron's words mean the same."""
    assert TINY.model.with_numbers({"num_layers": "2"}) == TINY.model.with_numbers({"num_hidden_layers": "2"})
    assert TINY.model.with_numbers({"num_layers": "2"}).num_hidden_layers == 2
    assert {TINY.model.with_numbers({"q_lora_rank": word}).q_lora_rank for word in ("none", "null")} == {None}


def test_every_megatron_word_stands_for_a_number_of_the_model() -> None:
    """The table has no word that leads nowhere."""
    assert set(MEGATRON_WORDS.values()) <= {number.name for number in fields(Model)}


@pytest.mark.parametrize(
    ("word", "text", "said"),
    [
        ("hidden", "3", "no such number"),
        ("hidden_size", "3.5", "a whole number"),
        ("rope_theta", "much", "a number"),
        ("tie_word_embeddings", "1", "true or false"),
    ],
)
def test_a_wrong_number_is_refused_with_what_is_wanted(word: str, text: str, said: str) -> None:
    """The sentence repeats what was typed."""
    with pytest.raises(UsageError, match=f"--set {word}={text}: .*{said}"):
        TINY.model.with_numbers({word: text})


@pytest.mark.parametrize(("dense", "moe"), [(0, 4), (1, 3), (4, 0), (9, 0)])
def test_every_layer_is_dense_or_moe(dense: int, moe: int) -> None:
    """Also when all are dense, or more than there are should be."""
    model: Model = TINY.model.with_numbers({"first_k_dense_replace": str(dense)})
    assert len(model.moe_layers) == moe
    assert model.dense_layers + model.moe_layers == (0, 1, 2, 3)
