"""What a case in mode inference compares is known before anything runs; reports, page and diagnosis read its names."""

from __future__ import annotations

from dataclasses import replace

from ci.page.place import Place, place
from tests.case.test_preflight import DYNAMIC, STATIC, case
from validation.case.axes import axes
from validation.case.case import Case
from validation.case.depth import ALL, needed
from validation.case.inference import (
    arrivals,
    expert_capacity,
    inferred,
    replicated,
    rows,
    token,
    uses_sequence_parallel,
    witness,
)
from validation.case.training import Training
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


REQUESTS = case(training=DYNAMIC, batch_size=4, seq_length=96)


def test_requests_have_prompts_of_their_own_and_one_is_cut_in_two() -> None:
    """One prompt ends behind the border of a block of 64, one at it, one is a single token."""
    assert [(one.row, one.prompt, one.step) for one in arrivals(REQUESTS)] == [(0, 72, 0), (1, 64, 0), (2, 1, 3), (3, 94, 3)]
    assert [one.row for one in arrivals(REQUESTS) if one.chunked] == [3]


def test_every_token_of_every_request_is_in_one_phase_and_known_by_its_request() -> None:
    prefill, decode = (inferred(REQUESTS)[f"{phase}/logits"] for phase in ("prefill", "decode"))
    assert (prefill.probe.shape, decode.probe.shape) == ((1, 231, 128), (1, 4 * 96 - 231, 128))
    tokens = {token(one, position) for one in (prefill, decode) for position in range(one.probe.shape[1])}
    assert tokens == {f"token {at} of request {row}" for at in range(96) for row in range(4)}
    assert token(inferred(INFERS)["decode/logits"], 5) == "token 41 of the sequence"


def test_each_data_parallel_rank_has_requests_of_its_own_that_end_in_the_same_step() -> None:
    asked = case("ep2", training=DYNAMIC, batch_size=8, seq_length=96)
    parts = [[one for one in arrivals(asked) if one.row in range(*rows(asked, rank).indices(8))] for rank in (0, 1)]
    first, second = ([(one.prompt, one.step, one.chunked) for one in part] for part in parts)
    assert first == second
    assert len(first) == 4


def test_a_rank_may_have_no_sequence() -> None:
    """Megatron-core lets it take part all the same."""
    asked = case("ep2", training=STATIC, batch_size=1)
    assert [rows(asked, rank) for rank in (0, 1)] == [slice(0, 0), slice(0, 1)]


def test_experts_are_padded_if_inference_asks_for_it() -> None:
    settings = {"model.moe_expert_capacity_factor": 4.0, "model.moe_pad_expert_input_to_capacity": True}
    asked = [
        replace(INFERS, training=STATIC.with_settings(settings)),
        INFERS,
        case(training=Training().with_settings(settings)),
    ]
    assert [expert_capacity(one) for one in asked] == [4.0, None, None]


def test_a_model_that_has_absorbed_its_weights_has_no_full_forward_to_witness() -> None:
    found = inferred(REQUESTS)
    assert "updated-full/logits" not in found
    assert witness(found["updated-decode/logits"]) not in found
    assert witness(found["decode/logits"]) in found


def test_requests_are_longer_than_a_block_of_the_cache_by_themselves() -> None:
    assert [one.seq_length for one in parsed(["--layouts", "single+dynamic,single+static"]).cases] == [96, 48]


def test_a_larger_preset_infers_over_no_more_tokens_than_it_takes() -> None:
    """Every decoded token is a forward pass. A step of training has the preset's length."""
    cases = parsed(["--preset", "mini", "--layouts", "single+dynamic,single+static,single"]).cases
    assert [one.seq_length for one in cases] == [192, 128, 512]
    assert parsed(["--preset", "mini", "--layouts", "single+static", "--seq-length", "300"]).cases[0].seq_length == 300
