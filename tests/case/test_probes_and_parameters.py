"""What is recorded and what is compared, known from the model alone."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from validation.case.model import Model
from validation.case.parameters import parameters, threads
from validation.case.preset import PRESETS, TINY
from validation.case.probes import TITLES, probes

WITH_MTP = replace(TINY.model, num_nextn_predict_layers=2)
MODELS = {name: preset.model for name, preset in PRESETS.items()} | {"two MTP layers": WITH_MTP}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_probe_and_parameter_has_a_title(model: Model) -> None:
    """A reader never meets a bare name, and no title stands for two."""
    for titles in ([p.title for p in probes(model, 2, 8).values()], [p.title for p in parameters(model).values()]):
        assert len(set(titles)) == len(titles)


def test_titles_are_those_of_the_report() -> None:
    """The words that section 5 of the design promises."""
    found = probes(TINY.model, 2, 8)
    assert found["layers.0.attention.output"].title == "Layer 0 Attention Output"
    assert found["layers.1.moe.router.experts"].title == "Layer 1 Router Output"
    weight = parameters(TINY.model)["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]
    assert weight.title == "Layer 0 KV Down Projection Weight"


def test_every_title_is_used() -> None:
    """A kind of probe that no model has is a leftover; a balancing loss is one of the step, two are of isolated cases."""
    sparse = replace(TINY.model, index_topk=8, index_n_heads=4, index_head_dim=48)
    shown = {probe.kind for model in (WITH_MTP, sparse) for probe in probes(model, 2, 8).values()}
    assert shown | {"moe.balancing", "moe.dispatched", "moe.experts"} == set(TITLES)


def test_probes_are_in_data_flow_order() -> None:
    """The first that fails is then the first that went wrong."""
    names = list(probes(TINY.model, 2, 8))
    flow = [
        "embedding",
        "layers.0.input_norm",
        "layers.0.mlp.output",
        "layers.1.moe.router.logits",
        "layers.1.output",
        "final_norm",
        "loss",
    ]
    assert [name for name in names if name in flow] == flow


def test_an_mtp_layer_comes_between_the_final_norm_and_the_logits() -> None:
    """It takes what the final norm gives, and its own embedding before that."""
    names = list(probes(WITH_MTP, 2, 8))
    own = ["embedding", "embedding_norm", "hidden_norm", "projection", "final_norm", "logits", "token_loss", "loss"]
    assert [name for name in names if ".mtp." in name] == [f"layers.{layer}.mtp.{kind}" for layer in (4, 5) for kind in own]
    assert names.index("final_norm") < names.index("layers.4.mtp.embedding") < names.index("logits")
    assert names.index("layers.4.mtp.projection") < names.index("layers.4.input_norm") < names.index("layers.4.mtp.final_norm")


def test_an_mtp_layer_ends_where_there_is_nothing_left_to_predict() -> None:
    """The last position has no next token to take; for the second layer the last two have not."""
    found = probes(WITH_MTP, 2, 8)
    lengths = {probe.mtp: probe.shape[1] for probe in found.values() if len(probe.shape) > 1}
    assert lengths == {None: 8, 0: 7, 1: 6}
    assert all(probe.shape[1] == lengths[probe.mtp] for probe in found.values() if len(probe.shape) > 1)


def test_an_mtp_layer_is_a_layer_with_experts_and_four_parameters_of_its_own() -> None:
    """Under the checkpoint's names, counted on from the last layer; embedding and head are the main model's."""
    known = parameters(WITH_MTP)
    block = {name.removeprefix("model.layers.3.") for name in known if name.startswith("model.layers.3.")}
    for index, layer in enumerate((4, 5)):
        mtp = {p.name.removeprefix(f"model.layers.{layer}."): p for p in known.values() if p.layer == layer}
        assert set(mtp) - block == {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"}
        assert block < set(mtp)
        assert {p.mtp for p in mtp.values()} == {index}
    assert known["model.layers.4.eh_proj.weight"].shape == (64, 128)
    assert known["model.layers.4.eh_proj.weight"].title == "MTP 0 Projection Weight"
    assert probes(WITH_MTP, 2, 8)["layers.5.attention.output"].title == "MTP 1 Attention Output"


def test_dense_layers_have_an_mlp_and_moe_layers_a_router() -> None:
    """Never both."""
    kinds = {layer: {p.kind for p in probes(TINY.model, 2, 8).values() if p.layer == layer} for layer in range(4)}
    assert [layer for layer in kinds if "mlp.output" in kinds[layer]] == [0]
    assert [layer for layer in kinds if "moe.router.experts" in kinds[layer]] == [1, 2, 3]


def test_a_probe_has_one_axis_per_dimension_and_the_data_s_size() -> None:
    """Batch and sequence come first; the key is as wide as the query, the value as v_head_dim."""
    found = probes(TINY.model, 2, 8)
    assert all(len(probe.axes) == len(probe.shape) for probe in found.values())
    assert found["layers.0.attention.key"].shape == (2, 8, 4, 48)
    assert found["layers.0.attention.value"].shape == (2, 8, 4, 16)
    assert found["loss"].shape == ()


def test_what_a_model_lacks_is_neither_recorded_nor_compared() -> None:
    """No query latent without query compression, no shared expert without one, no output layer when it is tied."""
    model = replace(TINY.model, q_lora_rank=None, n_shared_experts=0, tie_word_embeddings=True)
    names = " ".join([*probes(model, 2, 8), *parameters(model)])
    assert not [word for word in ("q_latent", "q_a_", "shared_expert", "lm_head") if word in names]
    assert "model.layers.0.self_attn.q_proj.weight" in names


def test_tiny_has_under_a_million_parameters_and_mini_180_million() -> None:
    """The sizes by which the presets are chosen."""
    count = {name: sum(math.prod(p.shape) for p in parameters(PRESETS[name].model).values()) for name in PRESETS}
    assert count["tiny"] < 1_000_000
    assert round(count["mini"] / 1e6) == 180


def test_only_the_expert_bias_is_not_trained() -> None:
    """It is a buffer, and has no gradient to compare."""
    untrained = [p.name for p in parameters(TINY.model).values() if not p.trained]
    assert untrained == [f"model.layers.{layer}.mlp.gate.e_score_correction_bias" for layer in (1, 2, 3)]


def test_experts_are_one_parameter_and_one_key_each() -> None:
    """The expert is the first dimension, in the order of the keys."""
    experts = parameters(TINY.model)["model.layers.2.mlp.experts.down_proj.weight"]
    assert experts.shape == (16, 64, 32)
    assert experts.keys()[15] == "model.layers.2.mlp.experts.15.down_proj.weight"
    assert len(experts.keys()) == 16


def test_planning_loads_no_torch() -> None:
    """Also preflight, the memory estimate and the facts about the machine: a planner has none of these packages."""
    code = (
        "import sys, validation.case.preflight, validation.case.memory, validation.case.case, validation.doctor as doctor;"
        "doctor.machine(); doctor.gpus(); doctor.available_memory();"
        "sys.exit(bool({'torch', 'transformers', 'safetensors', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_small_layers_are_worth_one_thread_however_many_there_are() -> None:
    """Of a wider model as many as there are cores, at most."""
    deep = replace(TINY.model, num_hidden_layers=61)
    assert [threads(model, 16) for model in (TINY.model, deep, PRESETS["mini"].model)] == [1, 1, 16]
    assert threads(PRESETS["mini"].model, 4) == 4
