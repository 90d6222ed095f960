"""What a Megatron checkpoint calls the tensors of sparse attention: norms stand beside the linear layers in both spellings."""

from __future__ import annotations

import pytest

from tests.reference.published_families import CONFIGS
from validation.candidate.checkpoint.keys import extra_states, places, what_works
from validation.candidate.checkpoint.tensors import Megatron
from validation.case.parameters import parameters
from validation.case.published import from_hf_config

MODEL = from_hf_config(CONFIGS["deepseek_v32"], "here")


@pytest.mark.parametrize("implementation", ["te", "local"])
def test_every_parameter_has_a_place_of_its_own(implementation: str) -> None:
    """As megatron-core's specs of 0.19 name them: nothing is joined with a projection of a latent."""
    found = places(Megatron(MODEL, parameters(MODEL), implementation))
    assert set(found) == set(parameters(MODEL))
    keys = {place.key for place in found.values()}
    for latent in ("q", "kv"):
        assert f"decoder.layers.0.self_attention.{latent}_layernorm.weight" in keys
        assert f"decoder.layers.0.self_attention.linear_{latent}_up_proj.layer_norm_weight" not in keys
    assert "decoder.layers.2.self_attention.core_attention.indexer.k_norm.bias" in keys
    assert ("decoder.layers.0.mlp.linear_fc1.layer_norm_weight" in keys) is (implementation == "te")


def test_a_norm_with_a_bias_has_one_extra_state() -> None:
    """Of Transformer Engine's norms, which have one for each module."""
    states = [key for key in extra_states(Megatron(MODEL, parameters(MODEL), "te")) if "layers.1." in key and "indexer" in key]
    prefix = "decoder.layers.1.self_attention.core_attention.indexer"
    modules = ("linear_wq_b", "linear_wk", "k_norm", "linear_weights_proj")
    assert states == [f"{prefix}.{name}._extra_state/shard_0_1" for name in modules]


@pytest.mark.parametrize("key", ["mtp.layers.0.enorm.weight", "module.mtp.layers.0.hnorm.weight"])
def test_a_checkpoint_without_the_mtp_layers_of_config_json_is_told_the_option(key: str) -> None:
    assert "--no-mtp" in what_works(key)
    assert "the same model" in what_works("decoder.layers.0.input_layernorm.weight")
