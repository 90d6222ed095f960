"""A failing check of inference says where the first error is, and whether the model has it without a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.case.test_preflight import STATIC, case
from validation.case.case import Case
from validation.case.inference import Inferred, inferred
from validation.checks.inferring import limits, near_tokens, per_position, told
from validation.compare.difference import measure
from validation.compare.extent import extent
from validation.compare.limits import EXACT, IN_FP64
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


def limit(one: Inferred) -> float:
    """What a tensor of a case in fp64 may be off."""
    return (limits(one) or IN_FP64).relative_error


def verdict(name: str, wrong: dict[str, tuple[int, float]], asked: Case = CASE) -> Verdict:
    """That of a check, as its report has it."""
    one = inferred(asked)[name]
    judged = judge(measured(one, wrong), one.title, limits(one) or IN_FP64)
    return told(asked, name, judged, lambda one: measured(one, wrong), limit)


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


def test_a_choice_of_experts_is_wrong_at_its_first_other_expert_and_rounding_is_not() -> None:
    """Rounding of tensors before it is no error, though a choice has no limit but zero."""
    wrong = {"full/logits": (0, 1e-15), "decode/layers.1.moe.router.experts": (3, 1.0)}
    found = verdict("decode/layers.1.moe.router.experts", wrong)
    assert found.properties["first_wrong"] == "decode position 3, Layer 1 Router Output"


def test_below_fp64_another_choice_of_experts_tells_nothing_of_other_tensors() -> None:
    """Rounding may have turned it over: near-ties are judged by themselves."""
    low = replace(CASE, precision="bf16")
    choice = {"decode/layers.1.moe.router.experts": (1, 1.0)}
    found = verdict("decode/logits", {**choice, "decode/logits": (3, 0.1)}, low)
    assert found.properties["first_wrong"] == "decode position 3, Logits"
    assert verdict("decode/layers.1.moe.router.experts", choice, low).properties["first_wrong"].endswith("1 Router Output")


def test_an_updated_phase_has_the_updated_full_forward_as_its_witness() -> None:
    wrong = {"updated-decode/logits": (0, 0.1), "full/logits": (0, 0.1)}
    assert verdict("updated-decode/logits", wrong).properties["cache"] == "cached"


def generated(tokens: list[int], margin: float) -> tuple[Measurement, Measurement]:
    """What a rank reports of three tokens where HuggingFace's are 5, 6 and 7, each preferred by that margin."""
    parts: dict[str, list[PieceReport]] = {"tokens": [], "flips": []}
    for step, (token, wanted) in enumerate(zip(tokens, (5, 6, 7), strict=True)):
        box = ((0, 1), (step, step + 1))
        by = margin if token != wanted else 0.0
        for name, values in {"tokens": (float(token), float(wanted)), "flips": (by, 0.0)}.items():
            candidate, reference = (torch.full((1, 1), value, dtype=torch.float64) for value in values)
            difference = measure(candidate, reference, box)
            parts[name].append(PieceReport(0, box, difference, name))
    one, other = (Measurement(name, (1, 3), tuple(pieces)) for name, pieces in parts.items())
    return one, other


def test_in_bf16_a_token_may_be_another_within_what_rounding_does_to_a_logit() -> None:
    """The floor of a logit decides, and twice of it is allowed, as for routers."""
    chosen, flips = generated([5, 9, 7], 0.015)
    judged = judge(chosen, "Greedy Tokens", EXACT)
    assert [near_tokens(judged, chosen, flips, floor).status for floor in (0.008, 0.007)] == ["pass", "fail"]


@pytest.mark.parametrize(
    ("tokens", "margin", "status", "said"),
    [
        ([5, 6, 7], 0.0, "pass", "3 tokens, all of them HuggingFace's"),
        ([5, 9, 7], 1e-12, "pass", "near-ties: 1 token flips, margin at most 1.0e-12 of 1.0e-10"),
        ([5, 9, 9], 1e-3, "fail", "first other token: number 1 behind the prompt"),
    ],
)
def test_another_token_fails_unless_rounding_decides(tokens: list[int], margin: float, status: str, said: str) -> None:
    chosen, flips = generated(tokens, margin)
    found = near_tokens(judge(chosen, "Greedy Tokens", EXACT), chosen, flips)
    assert found.status == status
    assert said in found.line
