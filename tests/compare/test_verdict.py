"""Verdicts: what must fail does, for the reason that is named, and nothing passes by default."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy
import pytest
import torch

from validation.compare.difference import measure
from validation.compare.limits import EXACT, IN_FP64, Limits, above_floor
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.piece import Box, slices, whole
from validation.compare.verdict import ERROR, FAIL, PASS, Verdict, judge, near_ties, readable

SHAPE = (4, 6)
HALVES: tuple[Box, Box] = (((0, 2), (0, 6)), ((2, 4), (0, 6)))


def reference() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def piece(rank: int, box: Box, candidate: torch.Tensor) -> PieceReport:
    """What `rank` reports of its part of a candidate tensor."""
    part = candidate[slices(box)]
    digest = hashlib.blake2b(part.numpy().tobytes(), digest_size=8).hexdigest()
    return PieceReport(rank, box, measure(part, reference()[slices(box)], box), digest)


def verdict(*pieces: PieceReport, limits: Limits = IN_FP64, routes: bool = False) -> Verdict:
    return judge(Measurement("probe", SHAPE, pieces), "Layer 0 Attention Output", limits, routes)


def whole_verdict(candidate: torch.Tensor, limits: Limits = IN_FP64) -> Verdict:
    return verdict(piece(0, whole(SHAPE), candidate), limits=limits)


def test_what_is_equal_passes() -> None:
    """The line is the one that users know."""
    assert whole_verdict(reference()).line == (
        "PASS: Layer 0 Attention Output - Max diff: 0.000000, Avg diff: 0.000000 (24 elements equal)"
    )


def test_rounding_passes() -> None:
    """An error of one part in 1e14 is what fp64 does on its own."""
    assert whole_verdict(reference() * (1 + 1e-14)).status == PASS


@pytest.mark.parametrize("error", [1e-6, 1e-9])
def test_a_small_bug_fails(error: float) -> None:
    """Bugs that are too small for any lower precision still fail in fp64."""
    candidate = reference()
    candidate[1] += error
    found = whole_verdict(candidate)
    assert found.status == FAIL
    assert "relative error" in found.line


@pytest.mark.parametrize(
    "limits", [IN_FP64, above_floor(1e-7, "fp32"), above_floor(0.0, "bf16"), EXACT, Limits(math.inf, math.inf)], ids=str
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_fails_under_any_limits(bad: float, limits: Limits) -> None:
    """One NaN is counted, named and placed, and passes under no limits at all."""
    candidate = reference()
    candidate[3, 2] = bad
    found = whole_verdict(candidate, limits)
    assert found.status == FAIL
    assert "1 element of the candidate is not finite" in found.reasons
    assert found.properties["worst_index"] == "[3, 2]"


def test_statistics_that_are_nan_fail() -> None:
    """Even where no element was counted as not finite: every test is written so that NaN fails it."""
    sound = measure(reference(), reference(), whole(SHAPE))
    nan = math.nan
    statistics = replace(sound, max_abs=nan, sum_abs=nan, sum_squares=nan, reference_squares=nan, cross=nan)
    report = PieceReport(0, whole(SHAPE), statistics, "")
    assert verdict(report, limits=Limits(math.inf)).status == FAIL


def test_no_piece_is_no_pass() -> None:
    """A probe that nobody reported is an error, even under limits that everything meets."""
    found = verdict(limits=Limits(math.inf))
    assert found.status == ERROR
    assert found.reasons == ("no rank reported probe",)


def test_an_empty_piece_is_no_pass() -> None:
    """A rank that reports a piece without elements has shown nothing."""
    assert verdict(piece(0, ((0, 0), (0, 6)), reference())).status == ERROR


def test_a_part_that_no_rank_holds_is_an_error() -> None:
    """Half of a tensor that agrees is not a tensor that agrees; the missing part is named."""
    found = verdict(piece(0, HALVES[0], reference()))
    assert found.status == ERROR
    assert found.reasons == ("no rank holds [2:4, 0:6]",)


def test_what_is_wrong_outweighs_what_is_missing() -> None:
    """A wrong number is a failure whatever else could not be decided; both are said."""
    found = verdict(piece(0, HALVES[0], reference() * 2))
    assert found.status == FAIL
    assert "no rank holds [2:4, 0:6]" in found.reasons


def test_halves_from_two_ranks_are_a_whole() -> None:
    """Two ranks, one half each: everything is there, and every element is counted once."""
    found = verdict(*(piece(rank, box, reference()) for rank, box in enumerate(HALVES)))
    assert found.status == PASS
    assert (found.properties["ranks"], found.properties["elements"]) == ("0,1", "24")


def test_replicas_that_agree_are_counted_once() -> None:
    """Four copies of a tensor have as many elements as one, or averages would shrink with the layout."""
    candidate = reference() + 0.5
    once, four = whole_verdict(candidate), verdict(*(piece(rank, whole(SHAPE), candidate) for rank in range(4)))
    assert four.numbers == once.numbers
    assert four.properties["elements"] == "24"


def test_replicas_that_differ_by_one_ulp_fail() -> None:
    """Each is well within the limits, and they are still not the same computation."""
    other = reference()
    other[0, 0] = numpy.nextafter(other[0, 0].item(), math.inf)
    found = verdict(piece(0, whole(SHAPE), reference()), piece(3, whole(SHAPE), other))
    assert found.status == FAIL
    assert found.reasons == ("replicas of [0:4, 0:6] on ranks 0, 3 differ in their bytes",)


def test_the_worst_replica_speaks() -> None:
    """One wrong copy is not diluted by the right ones."""
    wrong = reference()
    wrong[2, 5] += 1.0
    found = verdict(*(piece(rank, whole(SHAPE), wrong if rank == 1 else reference()) for rank in range(3)))
    assert "worst at [2, 5] on rank 1" in found.reasons


@pytest.mark.parametrize("factor", [2.0, 0.5, 4.0])
def test_a_reduction_too_many_or_too_few_is_named_by_its_factor(factor: float) -> None:
    """Doubled, halved: the sentence gives the factor, which is the size of a group."""
    found = whole_verdict(reference() * factor)
    assert found.status == FAIL
    assert f"scaled by {factor:g}" in found.reasons


def test_a_candidate_of_zeros_fails() -> None:
    """What was never computed is scaled by 0."""
    assert "scaled by 0" in whole_verdict(torch.zeros(SHAPE, dtype=torch.float64)).reasons


def test_exact_means_every_bit() -> None:
    """One unit in the last place of one weight fails where weights must be equal."""
    candidate = reference()
    assert whole_verdict(candidate, EXACT).status == PASS
    candidate[1, 1] = numpy.nextafter(candidate[1, 1].item(), math.inf)
    found = whole_verdict(candidate, EXACT)
    assert found.status == FAIL
    assert "worst at [1, 1] on rank 0" in found.reasons


def test_fp32_has_an_absolute_limit_as_well() -> None:
    """In a large tensor one element may be far off and the relative error small."""
    sound = torch.ones((1000, 1000), dtype=torch.float64)
    far = sound.clone()
    far[7, 7] += 0.002
    box = whole(sound.shape)
    report = PieceReport(0, box, measure(far, sound, box), "")
    found = judge(Measurement("probe", (1000, 1000), (report,)), "Logits", above_floor(1e-5, "fp32", magnitude=1.0))
    assert found.status == FAIL
    assert found.reasons == ("max diff 2.00e-03 > 0.001", "worst at [7, 7] on rank 0")


@pytest.mark.parametrize(("size", "off", "status"), [(1e4, 0.02, PASS), (1e4, 20.0, FAIL), (1e-4, 2e-9, PASS)])
def test_the_absolute_limit_of_fp32_grows_with_the_numbers(size: float, off: float, status: str) -> None:
    """At 1e4 the next number of fp32 is 1e-3 away: what rounding makes there is no failure, a thousandth of it is one."""
    sound = torch.full((1000, 1000), size, dtype=torch.float64)
    far = sound.clone()
    far[7, 7] += off
    box = whole(sound.shape)
    report = PieceReport(0, box, measure(far, sound, box), "")
    found = judge(Measurement("probe", (1000, 1000), (report,)), "Logits", above_floor(1e-5, "fp32", magnitude=size))
    assert found.status == status


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            above_floor(0.25, "bf16"),
            "cannot be decided in bf16: rounding alone is off by 25 %; --isolated or --precision fp32 can",
        ),
        (above_floor(0.84, "bf16", isolated=True), "in bf16: rounding alone is off by 84 %; --precision fp32 can"),
        (above_floor(3.0, "fp32"), "in fp32: rounding alone is off by 300 %; --isolated or --precision fp64 can"),
        (above_floor(0.5, "bf16", fp8=True), "in fp8: rounding alone is off by 50 %; the same without fp8 can"),
    ],
)
def test_what_keeps_a_limit_that_decides_nothing_is_an_error(limits: Limits, said: str) -> None:
    """Under such a limit half of a tensor passes, or one of zeros: that it holds says nothing, not even where all is right."""
    sound = whole_verdict(reference(), replace(limits, relative_error=min(limits.relative_error, 9.0)))
    assert sound.status == ERROR
    assert said in sound.line


@pytest.mark.parametrize(("floor", "fp8", "size"), [(0.24, False, 0.6), (0.46, True, 0.1)])
def test_below_those_limits_it_is_decided(floor: float, fp8: bool, size: float) -> None:
    """Half of a tensor fails, and in fp8 none of it, where floors are as large as they were measured."""
    limits = above_floor(floor, "bf16", fp8=fp8)
    assert whole_verdict(reference() * size, limits).status == PASS
    assert whole_verdict(reference() * (size - 0.1), limits).status == FAIL


def test_what_exceeds_even_a_limit_that_decides_nothing_is_wrong() -> None:
    """A failure is none the less one."""
    assert whole_verdict(-reference(), above_floor(0.5, "bf16")).status == FAIL


def test_routes_are_counted_as_routes() -> None:
    """An expert chosen in place of another is one route, though two elements differ."""
    chosen = torch.zeros(SHAPE, dtype=torch.bool)
    chosen[:, :2] = True
    other = chosen.clone()
    other[0, 1], other[0, 5] = False, True
    box = whole(SHAPE)
    report = PieceReport(0, box, measure(other, chosen, box), "")
    found = judge(Measurement("experts", SHAPE, (report,)), "Layer 1 Router Output", EXACT, routes=True)
    assert found.status == FAIL
    assert "1 of 8 routes differs" in found.line


def test_every_number_that_a_reader_needs_is_a_property() -> None:
    """The JUnit file carries the numbers, not only the sentence."""
    found = whole_verdict(reference() + 0.5).properties
    assert float(found["max_diff"]) == pytest.approx(0.5)
    assert float(found["avg_diff"]) == pytest.approx(0.5)
    assert float(found["rel_error"]) > 0
    assert (found["tolerance"], found["worst_rank"], found["ranks"]) == ("1e-10", "0", "0")


def test_a_piece_survives_the_way_from_its_rank() -> None:
    """What a rank writes as lists is read back as the same report."""
    report = piece(2, HALVES[1], reference() * 1.5)
    assert PieceReport.from_list(2, report.as_list()) == report


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0.000000"), (0.000123, "0.000123"), (4.4e-16, "4.40e-16"), (math.nan, "nan"), (math.inf, "inf"), (2e9, "2.00e+09")],
)
def test_differences_are_readable(number: float, text: str) -> None:
    """Six decimals where they show it, powers of ten where they do not."""
    assert readable(number) == text


def test_a_run_repeats_where_every_byte_does() -> None:
    """Whatever it is compared with: another run of the same case may be measured against something else."""
    first, again, other = (
        Measurement("x", SHAPE, (piece(0, whole(SHAPE), candidate),))
        for candidate in (reference(), reference(), reference() + 1e-15)
    )
    assert first.repeats(again)
    assert not first.repeats(other)


def test_the_error_is_told_in_floors() -> None:
    """One and a half times what rounding does passes; three times fails, and both say so."""
    sound = reference()
    for times, status in ((1.5, PASS), (3.0, FAIL)):
        found = verdict(piece(0, whole(SHAPE), sound * (1 + times * 1e-3)), limits=above_floor(1e-3, "bf16"))
        assert found.status == status
        assert f"({times:g}x floor)" in found.numbers
        assert float(found.properties["ratio"]) == pytest.approx(times)
        assert float(found.properties["floor"]) == 1e-3
    assert any(reason.startswith("relative error 3.00e-03 > 2.0e-03 (2x floor)") for reason in found.reasons)


def _choice(margin: float) -> tuple[Verdict, Measurement, Measurement]:
    """The verdict on a choice in which one token of four flips, and the margin that it had."""
    chosen = torch.tensor([[[True, False], [True, False], [False, True], [True, False]]])
    other = chosen.clone()
    other[0, 1] = ~other[0, 1]
    box = whole(chosen.shape)
    margins = torch.tensor([[0.0, margin, 0.0, 0.0]], dtype=torch.float64)
    measured = Measurement("choice", (1, 4, 2), (PieceReport(0, box, measure(other, chosen, box), "a"),))
    flips = PieceReport(0, box[:2], measure(margins, torch.zeros_like(margins), box[:2]), "b")
    return judge(measured, "Router Output", EXACT, routes=True), measured, Measurement("flips", (1, 4), (flips,))


def test_a_flip_within_reach_of_rounding_is_a_near_tie() -> None:
    """It is counted and passes; a token that rounding cannot have moved fails."""
    strict, choice, flips = _choice(1.9e-3)
    assert strict.status == FAIL
    passed = near_ties(replace(strict, failure="routes"), choice, flips, 1e-3)
    assert (passed.status, passed.failure) == (PASS, "")
    assert passed.reasons == ()
    assert "1 of 4 routes differs, near-ties: 1 token flips, margin at most 1.9e-03 of 2.0e-03" in passed.numbers
    for margin in (2.1e-3, math.nan, math.inf):
        assert near_ties(*_choice(margin), 1e-3).status == FAIL


def test_a_near_tie_excuses_nothing_else() -> None:
    """Replicas that chose differently, pieces that overlap in part, and margins that nobody reported."""
    strict, choice, flips = _choice(1e-4)
    part = replace(choice.pieces[0], rank=1, box=((0, 1), (0, 2), (0, 2)))
    assert near_ties(strict, replace(choice, pieces=(*choice.pieces, part)), flips, 1e-3).status == FAIL
    twice = replace(choice, pieces=(*choice.pieces, replace(choice.pieces[0], rank=1, digest="other")))
    assert near_ties(strict, twice, flips, 1e-3).status == FAIL
    assert near_ties(strict, choice, replace(flips, pieces=()), 1e-3).status == FAIL
