"""What is recorded and what is compared, known from the model alone."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from validation.case.parameters import parameters
from validation.case.preset import PRESETS, TINY
from validation.case.probes import TITLES, probes


@pytest.mark.parametrize("name", PRESETS)
def test_every_probe_and_parameter_has_a_title(name: str) -> None:
    """A reader never meets a bare name, and no title stands for two."""
    model = PRESETS[name].model
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
    """A kind of probe that no model has is a leftover."""
    assert {probe.kind for probe in probes(TINY.model, 2, 8).values()} == set(TITLES)


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
