"""The floor of inference: what rounding does to a tensor of a phase, to one decoded token alone, and to a choice of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.case.test_preflight import DYNAMIC, STATIC, case
from validation.case.case import Case
from validation.case.inference import DECODE, GENERATED, GENERATION, GREEDY, inferred, prompt_lengths
from validation.reference import inference
from validation.reference.batch import make_batch
from validation.reference.compute import compute
from validation.reference.floor import VARIANTS
from validation.reference.store import Reference

SMALL = {"num_hidden_layers": 1, "first_k_dense_replace": 0}
LOW = case(model=SMALL, training=STATIC, precision="bf16", batch_size=2, micro_batch_size=1, seq_length=4)


FEW = 2
"""Tokens that are generated here: each is a step of the model."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "GENERATED", FEW)
        patch.setattr(inference, "VARIANTS", VARIANTS[:2])
        return compute(LOW, tmp_path_factory.mktemp("references"), torch.device("cpu"), lambda said: None)


def test_every_tensor_has_a_floor_and_every_decoded_token_one_that_is_no_smaller(stored: Reference) -> None:
    facts, tensors = stored.facts(), {name for name, one in inferred(LOW).items() if not one.routes}
    assert tensors <= set(facts["floor"])
    assert set(facts["floor_at"]) == {name for name in tensors if name.split("/")[0].endswith(DECODE)}
    assert all(facts["floor"][name] <= error < 0.5 for name, error in facts["floor_at"].items())
    assert set(facts["score_floor"]) == {GREEDY, *(set(inferred(LOW)) - tensors)}


def test_choices_are_kept_for_both_weights_and_for_what_is_generated(stored: Reference) -> None:
    """Ranks go on with them; positions that HuggingFace has generated are positions like others."""
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(stored.routing).items() if name.endswith("experts")}
    k, length = LOW.model.num_experts_per_tok, prompt_lengths(LOW)[0] + FEW
    assert shapes == {"0/experts": (2, 4, k), "updated-0/experts": (2, 4, k), f"{GENERATION}0/experts": (2, length, k)}


def test_tokens_are_generated_behind_each_prompt_of_its_own_length() -> None:
    asked = case(model=SMALL, training=DYNAMIC, batch_size=4, micro_batch_size=1, seq_length=16)
    batch, tokens = make_batch(asked, 0), torch.arange(4 * GENERATED).view(4, GENERATED)
    made = inference.generation(asked, batch, tokens).tokens
    for row, prompt in enumerate(prompt_lengths(asked)):
        assert made[row, :prompt].equal(batch.tokens[row, :prompt])
        assert made[row, prompt : prompt + GENERATED].equal(tokens[row])


def test_requests_have_one_row_and_a_phase_knows_where_a_position_of_a_request_lies() -> None:
    asked: Case = replace(LOW, training=DYNAMIC, batch_size=4, seq_length=96)
    decode = inferred(asked)["decode/logits"]
    places = [decode.place(row, position) for row, first, last in decode.runs for position in range(first, last)]
    assert places == [(0, at) for at in range(decode.probe.shape[1])]
    assert inferred(LOW)["decode/logits"].place(1, 3) == (1, 0)
