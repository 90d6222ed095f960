"""What a case in mode inference compares is known before anything runs; reports, page and diagnosis read its names."""

from __future__ import annotations

from dataclasses import replace

from ci.page.place import Place, place
from tests.case.test_preflight import STATIC, case
from validation.case.axes import axes
from validation.case.case import Case
from validation.case.depth import ALL, needed
from validation.case.inference import inferred, replicated, uses_sequence_parallel
from validation.checks.order import place as in_flow
from validation.run.options import parsed
from validation.run.reproduce import alone, command

INFERS = case("tp2", training=STATIC)


def test_phases_cut_the_sequence_and_a_position_is_in_two_of_them() -> None:
    """Of 48 tokens 36 are prefilled and 12 decoded; the full forward has all."""
    shapes = {name: one.probe.shape for name, one in inferred(INFERS).items() if name.endswith("/logits")}
    once = {"full/logits": (8, 48, 128), "prefill/logits": (8, 36, 128), "decode/logits": (8, 12, 128)}
    assert shapes == once | {f"updated-{name}": shape for name, shape in once.items()}
    assert [inferred(INFERS)[name].start for name in shapes] == [0, 0, 36] * 2


def test_a_case_that_trains_compares_nothing_of_inference() -> None:
    assert not inferred(case())


def test_a_case_goes_through_json_with_its_mode_and_keeps_its_name() -> None:
    assert Case.from_json(INFERS.to_json()) == INFERS
    assert (INFERS.name, case("tp2").to_json().count("inference")) == ("tiny-tp2+static-fp64-local-gloo", 0)


def test_a_command_for_a_shell_has_the_mode() -> None:
    settings = parsed(["--layouts", "tp2+static"])
    said = command(alone(settings.cases[0]), "Decode Logits", settings)
    assert "--layouts single+static --only 'Decode Logits'" in said
    assert parsed(["--inference"]).cases[0].training == STATIC


def test_its_tensors_have_a_place_in_the_flow_of_data_and_on_the_page() -> None:
    names = [
        "full/logits",
        "prefill/layers.0.attention.output",
        "decode/layers.0.attention.output",
        "decode/layers.0.output",
        "updated-full/logits",
        "greedy/tokens",
    ]
    assert sorted(names, key=lambda name: in_flow(INFERS, name)) == names
    assert place("Decode Layer 0 Attention Output") == Place("Decode", "Attention Output", "0")
    assert place("Updated Decode Logits") == Place("Updated Decode", "Logits", "Model")
    assert [axis.size for axis in axes(INFERS, "decode/layers.0.output")] == [8, 12, 64]
    assert needed(INFERS, ["decode/logits"]) == ALL


def test_sequence_parallelism_is_for_experts_on_several_ranks() -> None:
    """As megatron-core generates; there, and elsewhere, tensor-parallel ranks send copies of tokens to experts."""
    layouts = [INFERS, case("tp2ep2", training=STATIC), case("tp2")]
    assert [uses_sequence_parallel(one) for one in layouts] == [False, True, True]
    dense = replace(INFERS, model=replace(INFERS.model, first_k_dense_replace=4))
    assert [replicated(one) for one in (INFERS, dense, case("pp2", training=STATIC))] == [False, True, True]
