"""A family that is read as another is the same model: its logits are those of transformers' own class, for the same weights.

And config.json is read as transformers reads it, whatever is in it, or refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, DeepseekV3Config

from tests.properties import anything, few
from tests.reference.published_families import CONFIGS
from validation.case import preflight
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.families import described
from validation.case.folder import model_from_folder
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.published import from_hf_config
from validation.compare.precision import computing_in
from validation.reference import as_read
from validation.reference.model import without_weights

TOKENS = torch.tensor([[3, 7, 31, 0, 12, 5, 5, 9, 30, 2, 1, 4]])


def folder(place: Path, config: dict[str, Any]) -> Path:
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return place


def both(config: dict[str, Any], place: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of transformers' own class, and of the reference with the same weights, in float64."""
    found = described(config, "here")
    parts = as_read.Parts(found.family)
    read = parts.config(found.config)
    read._attn_implementation = read._experts_implementation = "eager"
    torch.manual_seed(5)
    theirs = parts.of("modeling", "ForCausalLM")(read)
    with torch.no_grad():
        for name, tensor in theirs.state_dict(keep_vars=True).items():
            tensor.copy_(torch.randn(tensor.shape) * 0.3 + (1.0 if "norm" in name else 0.0))
    ours = without_weights(model_from_folder(place))
    ours.load_state_dict({name: tensor.clone() for name, tensor in theirs.state_dict().items()}, strict=True, assign=True)
    with torch.no_grad(), computing_in("fp64"):
        one, two = (hf.double().eval()(input_ids=TOKENS, use_cache=False).logits for hf in (theirs, ours))
    return one, two


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "kimi_k25"])
def test_the_reference_computes_what_the_family_s_own_class_computes(name: str, tmp_path: Path) -> None:
    place = folder(tmp_path, CONFIGS[name])
    as_read.check(model_from_folder(place), place)
    theirs, ours = both(CONFIGS[name], place)
    assert theirs.abs().max() > 0.1
    assert float((theirs - ours).norm() / theirs.norm()) < 1e-12


def test_of_kimi_k25_the_model_of_text_is_deepseek_v3s(tmp_path: Path) -> None:
    """Transformers gives its text_config DeepSeek-V3's class; tied embeddings are said beside it."""
    place = folder(tmp_path, CONFIGS["kimi_k25"])
    assert type(AutoConfig.for_model(**json.loads(json.dumps(CONFIGS["kimi_k25"]))).text_config) is DeepseekV3Config
    model = model_from_folder(place)
    as_read.check(model, place)
    assert model == from_hf_config({**CONFIGS["kimi_k2"], "rms_norm_eps": 1e-5}, "here")
    assert model_from_folder(folder(tmp_path, {**CONFIGS["kimi_k25"], "tie_word_embeddings": True})).tie_word_embeddings


def test_mtp_layers_have_two_names_and_one_number() -> None:
    """As transformers' class of DeepSeek-V3 has it."""
    without = {name: value for name, value in CONFIGS["deepseek_v3"].items() if name != "num_nextn_predict_layers"}
    given = json.loads(json.dumps({**without, "num_mtp_layers": 2}))  # transformers changes what it is given
    assert DeepseekV3Config.from_dict(given).to_dict()["num_nextn_predict_layers"] == 2
    found = described({**without, "num_mtp_layers": 2}, "here").config
    assert (found["num_nextn_predict_layers"], "num_mtp_layers" in found) == (2, False)
    with pytest.raises(UsageError, match="num_nextn_predict_layers 1 and num_mtp_layers 2, one number to transformers"):
        described({**CONFIGS["deepseek_v3"], "num_mtp_layers": 2}, "here")


def case(model: Model) -> Case:
    return Case("here", model, Layout(), "fp64", "local", "gloo", 1, 2, 1, 12)


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The config with another value there; without the key for `...`."""
    return {name: found for name, found in {**config, key: value}.items() if found is not ...}


KEYS = sorted(
    {key for config in CONFIGS.values() for key in config}
    | {"rope_parameters", "head_dim", "qk_head_dim", "num_local_experts", "num_experts", "mlp_layer_types", "rope_interleave"}
    | {"mlp_bias", "partial_rotary_factor", "num_mtp_layers", "index_topk", "dtype", "layer_types", "sliding_window"}
)
VALUES = st.one_of(
    st.sampled_from([..., None, True, False, 0, 1, 2, 8, 1.0, 0.5, 1e-5, "", "1", "true", "yarn", "sigmoid", [], {}]),
    st.sampled_from(
        [{"rope_type": "default", "rope_theta": 500.0}, {"type": "yarn", "factor": 4.0}, ["dense", "sparse", "sparse"]]
    ),
    anything,
)


@few
@given(name=st.sampled_from(sorted(set(CONFIGS) - {"kimi_k25"})), key=st.sampled_from(KEYS), value=VALUES)
def test_any_key_with_any_value_is_read_as_transformers_reads_it(name: str, key: str, value: Any, tmp_path: Path) -> None:
    """Or refused in one sentence: what is accepted computes what the family's own class computes."""
    config = changed(CONFIGS[name], key, value)
    place = folder(tmp_path, config)
    try:
        model = model_from_folder(place)
        preflight.check(case(model), max_ranks=1, gpus=0, memory=None)
        as_read.check(model, place)
    except UsageError as refused:
        refusal: UsageError | None = refused
    else:
        refusal = None
    if refusal is not None:
        assert len(str(refusal).splitlines()) == 1
        return
    theirs, ours = both(config, place)
    assert float((theirs - ours).norm() / theirs.norm()) < 1e-12, (name, key, value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("norm_topk_prob", None, "norm_topk_prob is null, which transformers takes for false, and cannot be compared"),
        ("rope_interleave", None, "rope_interleave is null, which transformers takes for false, and cannot be compared"),
        ("rms_norm_eps", None, "rms_norm_eps in config.json is null, which is no value of it"),
        ("rms_norm_eps", 1, "rms_norm_eps in config.json is 1, and transformers takes no whole number there"),
        ("q_lora_rank", ..., "transformers reads q_lora_rank|is missing"),
        ("n_group", None, "n_group in config.json is null"),
        ("rope_theta", None, "rope_theta in config.json is null"),
        (
            "rope_parameters",
            {"rope_type": "default", "rope_theta": 500.0},
            "rope_scaling and rope_parameters, and they differ",
        ),
        ("num_local_experts", 4, "config.json has n_routed_experts 8 and num_local_experts 4"),
        ("head_dim", 4, "head_dim in config.json is 4, and qk_rope_head_dim 8; remove it"),
        ("scoring_func", "softmax", "scoring_func is 'softmax' and cannot be compared: deepseek_v3 has 'sigmoid'"),
        ("moe_layer_freq", 2, "moe_layer_freq is 2 and cannot be compared"),
        ("topk_method", "greedy", "topk_method is 'greedy'; deepseek_v3 has 'noaux_tc'"),
        ("index_topk", 8, "index_topk in config.json switches on the indexer of sparse attention, which deepseek_v32 has"),
        ("num_key_value_heads", ..., "transformers reads num_key_value_heads in config.json as 128 and Plumbline as 2"),
    ],
)
def test_what_another_reader_would_take_otherwise_is_refused(key: str, value: Any, said: str, tmp_path: Path) -> None:
    place = folder(tmp_path, changed(CONFIGS["deepseek_v3"], key, value))
    if (key, value) == ("q_lora_rank", ...):
        assert model_from_folder(place).q_lora_rank == 1536  # transformers' own default, which no small checkpoint has
        return
    with pytest.raises(UsageError, match=said):
        as_read.check(model_from_folder(place), place)


def test_of_glm_transformers_goes_by_a_list_of_layers(tmp_path: Path) -> None:
    """first_k_dense_replace is no key of its class."""
    with pytest.raises(UsageError, match="of glm4_moe_lite transformers reads mlp_layer_types instead, which if"):
        model_from_folder(folder(tmp_path, changed(CONFIGS["glm4_moe_lite"], "first_k_dense_replace", 2)))
    kinds = ["dense", "dense", "sparse"]
    without = changed(changed(CONFIGS["glm4_moe_lite"], "first_k_dense_replace", ...), "mlp_layer_types", kinds)
    assert model_from_folder(folder(tmp_path, without)).dense_layers == (0, 1)
