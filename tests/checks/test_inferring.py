"""A failing check of inference says where the first error is, and whether the model has it without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.case.test_preflight import STATIC, case
from validation.case.inference import Inferred, inferred
from validation.checks.inferring import per_position, told
from validation.compare.difference import measure
from validation.compare.extent import extent
from validation.compare.limits import IN_FP64
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.verdict import Verdict, judge

CASE = case(model={"num_hidden_layers": 2}, training=STATIC, batch_size=2, micro_batch_size=1, seq_length=16)
LIMIT = IN_FP64.relative_error


def measured(one: Inferred, wrong: dict[str, tuple[int, float]]) -> Measurement:
    """What one rank reports of a tensor of ones that is off from a position on; of decoded tokens a piece each."""
    position, by = wrong.get(one.name, (0, 0.0))
    expected = torch.ones(one.probe.shape, dtype=torch.float64)
    found = expected.clone()
    found[:, position:] += by
    length = one.probe.shape[1]
    steps = [(at, at + 1) for at in range(length)] if one.phase == "decode" else [(0, length)]
    pieces = []
    for start, stop in steps:
        box = ((0, one.probe.shape[0]), (start, stop), *((0, size) for size in one.probe.shape[2:]))
        parts = (found[:, start:stop].contiguous(), expected[:, start:stop].contiguous())
        difference = measure(*parts, box)
        pieces.append(PieceReport(0, box, difference, "", extent(*parts, box, difference, False, 0.0)))
    return Measurement(one.name, one.probe.shape, tuple(pieces))


def verdict(name: str, wrong: dict[str, tuple[int, float]]) -> Verdict:
    """That of a check, as its report has it."""
    one = inferred(CASE)[name]
    return told(CASE, name, judge(measured(one, wrong), one.title, IN_FP64), LIMIT, lambda one: measured(one, wrong))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"decode/layers.1.attention.output": (2, 0.1)},
            "decode position 2, Layer 1 Attention Output (token 14 of the sequence)",
        ),
        (
            {"decode/layers.1.attention.output": (2, 0.1), "decode/layers.0.output": (3, 0.1)},
            "decode position 2, Layer 1 Attention Output (token 14 of the sequence)",
        ),
        (
            {"decode/layers.1.attention.output": (2, 0.1), "decode/layers.0.output": (2, 0.1)},
            "decode position 2, Layer 0 Layer Output (token 14 of the sequence)",
        ),
        (
            {"decode/layers.1.attention.output": (0, 0.1), "prefill/logits": (9, 0.1)},
            "prefill position 9, Logits (token 9 of the sequence)",
        ),
    ],
    ids=["alone", "an earlier position", "an earlier tensor", "an earlier phase"],
)
def test_the_first_error_is_that_of_the_earliest_phase_position_and_tensor(
    wrong: dict[str, tuple[int, float]], said: str
) -> None:
    found = verdict("decode/layers.1.attention.output", wrong)
    assert f"first wrong: {said}" in found.reasons
    assert found.properties["first_wrong"] == said.partition(" (")[0]


def test_a_cached_error_is_told_from_one_that_the_model_has_anyway() -> None:
    wrong = {"decode/logits": (1, 0.1)}
    assert verdict("decode/logits", wrong).reasons[-1] == "cached: its own full forward is off by 0.0e+00"
    found = verdict("decode/logits", {**wrong, "full/logits": (0, 0.1)})
    assert found.reasons[-1] == "uncached: its own full forward is off by 1.0e-01, too"
    assert found.properties["cache"] == "uncached"


def test_the_full_forward_is_no_witness_of_itself_and_a_pass_needs_none() -> None:
    assert "cache" not in verdict("full/logits", {"full/logits": (0, 0.1)}).properties
    assert verdict("decode/logits", {}).reasons == ()


def test_an_error_at_one_position_fails_though_the_whole_tensor_is_within_the_limit() -> None:
    one = inferred(CASE)["decode/logits"]
    position = measured(one, {one.name: (3, 1.5e-10)})
    found = per_position(judge(position, one.title, IN_FP64), position, LIMIT)
    assert (found.status, found.failure) == ("fail", "limit")
    assert found.reasons[-1] == "at position 3 alone the relative error is 1.5e-10 > 1e-10"
    same = replace(found, status="pass")
    assert per_position(same, measured(one, {}), LIMIT) == same


def test_copies_that_are_computed_otherwise_need_no_equal_bytes() -> None:
    """Each must be within the limits all the same."""
    one = inferred(CASE)["full/logits"]
    piece = measured(one, {}).pieces[0]
    copies = Measurement(one.name, one.probe.shape, (piece, replace(piece, rank=1, digest="other")))
    assert [judge(copies, one.title, IN_FP64, replicated=alike).status for alike in (True, False)] == ["fail", "pass"]
    wrong = measured(one, {one.name: (0, 0.1)}).pieces[0]
    assert judge(replace(copies, pieces=(piece, wrong)), one.title, IN_FP64, replicated=False).status == "fail"
