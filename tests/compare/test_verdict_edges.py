"""Verdicts at their edges: exactly at a limit, over zero, in parts that overlap, and every sentence word by word."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch

from validation.case import failures
from validation.compare.difference import measure
from validation.compare.limits import EXACT, IN_FP64, Limits, above_floor
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.piece import Box, slices, whole
from validation.compare.verdict import ERROR, FAIL, PASS, UNEVALUATED, Verdict, judge, near_ties, piece_lines, readable

SHAPE = (4, 2)
ROWS = [[1.0, 2.0], [4.0, 8.0], [0.5, 1.0], [2.0, 0.25]]


def reference() -> torch.Tensor:
    """Powers of two, so that what is a quarter too large is so exactly."""
    return torch.tensor(ROWS, dtype=torch.float64)


def piece(rank: int, rows: tuple[int, int], candidate: torch.Tensor, right: torch.Tensor | None = None) -> PieceReport:
    box: Box = (rows, (0, 2))
    part = candidate[slices(box)]
    digest = hashlib.blake2b(part.numpy().tobytes(), digest_size=8).hexdigest()
    return PieceReport(rank, box, measure(part, (reference() if right is None else right)[slices(box)], box), digest)


def verdict(*pieces: PieceReport, limits: Limits = IN_FP64, routes: bool = False) -> Verdict:
    return judge(Measurement("probe", SHAPE, pieces), "Layer 0 Attention Output", limits, routes)


def test_parts_that_overlap_are_a_failure_though_every_number_is_right() -> None:
    """Both ranks agree on the row that they share, and no layout gives it to both."""
    found = verdict(piece(0, (0, 3), reference()), piece(1, (2, 4), reference()))
    assert found.status == FAIL
    assert found.reasons == ("pieces of different ranks overlap in part, which no layout explains",)


def test_parts_that_overlap_are_a_failure_beside_what_is_wrong() -> None:
    found = verdict(piece(0, (0, 3), reference()), piece(1, (2, 4), 2 * reference()))
    assert found.status == FAIL
    assert found.reasons[-1] == "pieces of different ranks overlap in part, which no layout explains"


def test_a_hole_is_what_is_said_where_parts_overlap_as_well() -> None:
    """Which rows were meant is not known, so that nothing is called wrong."""
    found = verdict(piece(0, (0, 2), reference()), piece(1, (1, 3), reference()), piece(2, (0, 3), reference()))
    assert found.status == ERROR
    assert found.reasons == ("no rank holds [3:4, 0:2]",)


def spoiled(value: float) -> torch.Tensor:
    found = reference()
    found[1, 1] = value
    return found


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ((), failures.COVERAGE),
        ((piece(0, (0, 3), reference()),), failures.COVERAGE),
        ((piece(0, (0, 3), reference()), piece(1, (2, 4), reference())), failures.COVERAGE),
        ((piece(0, (0, 4), spoiled(math.nan)),), failures.NOT_FINITE),
        ((piece(0, (0, 4), spoiled(8.5)),), failures.LIMIT),
        ((piece(0, (0, 3), spoiled(8.5)),), failures.LIMIT),
        ((piece(0, (0, 4), reference()), piece(1, (0, 4), spoiled(8.0 + 1e-14))), failures.REPLICAS),
        ((piece(0, (0, 4), reference()), piece(1, (0, 4), spoiled(8.5))), failures.REPLICAS),
        ((piece(0, (0, 4), reference()),), ""),
    ],
)
def test_a_failure_is_of_the_first_kind_that_is_tested(pieces: tuple[PieceReport, ...], kind: str) -> None:
    """Finite, replicas, limit, coverage: the others are said in its line."""
    assert verdict(*pieces).failure == kind


def test_what_rounding_leaves_undecided_is_a_kind_of_its_own() -> None:
    """Unless something is missing, which is worse."""
    wide = Limits(0.25, undecided="rounding alone decides it")
    assert verdict(piece(0, (0, 4), reference()), limits=wide).failure == failures.UNDECIDED
    assert verdict(piece(0, (0, 3), reference()), limits=wide).failure == failures.COVERAGE


def test_exactly_at_the_limit_holds_and_just_above_does_not() -> None:
    """A quarter too large, under a limit of a quarter, in each of the three numbers."""
    candidate = 1.25 * reference()
    at = Limits(0.25, max_abs=2.0)
    found = verdict(piece(0, (0, 4), candidate), limits=at)
    assert (found.status, found.reasons) == (PASS, ())
    below = math.nextafter(0.25, 0)
    assert verdict(piece(0, (0, 4), candidate), limits=replace(at, relative_error=below)).reasons == (
        "relative error 2.50e-01 > 2e-01",
        "scaled by 1.25",
        "worst at [1, 1] on rank 0",
    )
    assert verdict(piece(0, (0, 4), candidate), limits=replace(at, max_abs=1.999)).reasons == (
        "max diff 2.00e+00 > 2",
        "worst at [1, 1] on rank 0",
    )


def test_over_zeros_nothing_is_scaled() -> None:
    """Their relative error says all that there is."""
    zeros = torch.zeros(SHAPE, dtype=torch.float64)
    found = verdict(piece(0, (0, 4), reference(), zeros))
    assert found.reasons == ("relative error inf > 1e-10", "worst at [1, 1] on rank 0")


def test_a_factor_is_seen_in_small_numbers_too() -> None:
    """Squares below one are squares."""
    small = 2.0**-20 * reference()
    found = verdict(piece(0, (0, 4), 2 * small, small))
    assert "scaled by 2" in found.reasons


def test_a_factor_just_above_what_rounding_makes_is_seen_where_all_must_be_equal() -> None:
    """Where bits are compared, sums still round: a factor off by less than 1e-15 is none, one off by a millionth is."""
    assert "scaled by 1+1e-07" in verdict(piece(0, (0, 4), (1 + 1e-7) * reference()), limits=EXACT).reasons
    one = reference()
    one[1, 1] = math.nextafter(8.0, 9.0)
    assert not any("scaled" in reason for reason in verdict(piece(0, (0, 4), one), limits=EXACT).reasons)


def test_the_side_that_is_not_finite_is_named() -> None:
    """Candidate and reference, each with how many."""
    right = reference()
    right[0, 0] = right[1, 0] = math.nan
    candidate = reference()
    candidate[2, 1] = math.inf
    reasons = verdict(piece(0, (0, 4), candidate, right)).reasons
    assert reasons[:2] == ("1 element of the candidate is not finite", "2 elements of the reference are not finite")


def test_replicas_are_named_by_the_place_that_they_share() -> None:
    """Not by one that agrees."""
    other = reference()
    other[2, 0] = math.nextafter(0.5, 1.0)
    found = verdict(
        *(piece(rank, (0, 2), reference()) for rank in (0, 1)), piece(2, (2, 4), reference()), piece(3, (2, 4), other)
    )
    assert found.reasons == ("replicas of [2:4, 0:2] on ranks 2, 3 differ in their bytes",)


def test_a_verdict_says_all_of_itself() -> None:
    """Title, numbers, reasons and properties, and the pieces for who wants to look closer."""
    reports = (piece(0, (0, 2), reference()), piece(1, (2, 4), 2 * reference()))
    found = verdict(*reports)
    assert found.line == (
        "FAIL: Layer 0 Attention Output - Max diff: 2.000000, Avg diff: 0.468750 (relative 2.4e-01); "
        "relative error 2.43e-01 > 1e-10; scaled by 1.05882; worst at [3, 0] on rank 1"
    )
    assert found.pieces == reports
    assert found.properties == {
        "max_diff": "2.0",
        "avg_diff": "0.46875",
        "rel_error": repr(math.sqrt(5.3125 / 90.3125)),
        "projection": repr((90.3125 + 5.3125) / 90.3125),
        "tolerance": "1e-10",
        "worst_index": "[3, 0]",
        "worst_rank": "1",
        "ranks": "0,1",
        "elements": "8",
    }
    assert Verdict(PASS, "Weights").line == "PASS: Weights"
    assert Verdict(UNEVALUATED, "Weights").line == "NOT EVALUATED: Weights"
    assert Verdict(FAIL, "Weights", reasons=("one", "two")).line == "FAIL: Weights - one; two"
    nobody = verdict()
    assert (nobody.title, nobody.line) == (
        "Layer 0 Attention Output",
        "ERROR: Layer 0 Attention Output - no rank reported probe",
    )


@pytest.mark.parametrize(("factor", "ratio"), [(1.0, "0.0"), (1.5, "inf")])
def test_over_a_floor_of_zero_right_is_zero_and_wrong_is_infinite(factor: float, ratio: str) -> None:
    """A floor that nothing rounds to: every element is a power of two."""
    found = verdict(piece(0, (0, 4), factor * reference()), limits=above_floor(0.0, "bf16"))
    assert (found.properties["floor"], found.properties["ratio"]) == ("0.0", ratio)


def test_a_line_for_each_piece_says_where_its_rank_is_wrong() -> None:
    """As `--debug` prints them."""
    first, second = (piece(0, (0, 2), reference()), piece(1, (2, 4), 2 * reference()))
    assert piece_lines(verdict(first, second)) == (
        f"rank 0 [0:2, 0:2]: Max diff: 0.000000 at [0, 0], relative 0.0e+00, bytes {first.digest}",
        f"rank 1 [2:4, 0:2]: Max diff: 2.000000 at [3, 0], relative 1.0e+00, bytes {second.digest}",
    )


def chosen(flipped: int, margin: float) -> tuple[Verdict, Measurement, Measurement]:
    """The verdict on four tokens' choice among two experts, of which the first `flipped` chose otherwise by `margin`."""
    right = torch.tensor([[[True, False]] * 4])
    choice = right.clone()
    choice[0, :flipped] = ~choice[0, :flipped]
    margins = torch.zeros((1, 4), dtype=torch.float64)
    margins[0, :flipped] = margin
    box, tokens = whole((1, 4, 2)), whole((1, 4))
    choices = Measurement("choice", (1, 4, 2), (PieceReport(0, box, measure(choice, right, box), "a"),))
    flips = Measurement("flips", (1, 4), (PieceReport(0, tokens, measure(margins, torch.zeros_like(margins), tokens), "b"),))
    return judge(choices, "Router Output", EXACT, routes=True), choices, flips


def test_each_route_counts_once() -> None:
    """Two experts in place of two others are two routes of four."""
    assert chosen(2, 0.1)[0].numbers.endswith(", 2 of 4 routes differ")


@pytest.mark.parametrize(("places", "said"), [((), "1 of 4 routes missing, 0 more"), ((0, 1), "0 of 4 routes missing, 1 more")])
def test_a_route_alone_counts_once(places: tuple[int, ...], said: str) -> None:
    """A token that loses an expert, and one that gets another."""
    right = torch.tensor([[[True, False]] * 4])
    choice, box = right.clone(), whole((1, 4, 2))
    choice[0, 0] = False
    choice[0, 0, list(places)] = True
    measured = Measurement("choice", (1, 4, 2), (PieceReport(0, box, measure(choice, right, box), "a"),))
    assert judge(measured, "Router Output", EXACT, routes=True).numbers.endswith(f", {said}")


def test_a_margin_of_exactly_twice_the_floor_is_a_near_tie() -> None:
    strict, choice, flips = chosen(1, 2.0**-9)
    found = near_ties(strict, choice, flips, 2.0**-10)
    assert (found.status, found.reasons) == (PASS, ())
    assert found.numbers.endswith("1 of 4 routes differs, near-ties: 1 token flips, margin at most 2.0e-03 of 2.0e-03")


def test_a_larger_margin_is_said_beside_what_was_wrong_before() -> None:
    strict, choice, flips = chosen(1, 0.5)
    assert near_ties(strict, choice, flips, 1e-3).reasons == (
        *strict.reasons,
        "1 token flips, margin at most 5.0e-01, near-ties have 2.0e-03",
    )


def test_a_choice_or_margins_that_are_not_known_of_every_token_are_no_near_tie() -> None:
    """Nothing is known of a fifth token: it may have chosen anything."""
    strict, choice, flips = chosen(1, 1e-4)
    assert near_ties(strict, choice, flips, 1e-3).status == PASS
    assert near_ties(strict, replace(choice, shape=(1, 5, 2)), flips, 1e-3).status == FAIL
    assert near_ties(strict, choice, replace(flips, shape=(1, 5)), 1e-3).status == FAIL
    silent = near_ties(strict, choice, replace(flips, pieces=()), 1e-3)
    assert silent.status == FAIL
    assert silent.reasons == (*strict.reasons, "no margins reported, near-ties have 2.0e-03")


@pytest.mark.parametrize("count", [(0, 1), (1, 0)])
def test_a_choice_that_is_not_finite_is_no_near_tie(count: tuple[int, int]) -> None:
    """On either side."""
    strict, choice, flips = chosen(1, 1e-4)
    report = choice.pieces[0]
    broken = replace(report.difference, nonfinite_candidate=count[0], nonfinite_reference=count[1])
    assert near_ties(strict, replace(choice, pieces=(replace(report, difference=broken),)), flips, 1e-3).status == FAIL


def test_replicas_that_chose_otherwise_are_no_near_tie() -> None:
    strict, choice, flips = chosen(1, 1e-4)
    twice = (choice.pieces[0], replace(choice.pieces[0], rank=1, digest="other"))
    assert near_ties(strict, replace(choice, pieces=twice), flips, 1e-3).status == FAIL


def test_a_tensor_is_no_choice_unless_somebody_says_so() -> None:
    measurement = Measurement("probe", SHAPE, (piece(0, (0, 4), reference()),))
    assert judge(measurement, "Loss", IN_FP64).line == "PASS: Loss - Max diff: 0.000000, Avg diff: 0.000000 (8 elements equal)"


@pytest.mark.parametrize(
    ("number", "text"),
    [(1e-4, "0.000100"), (9.9e-5, "9.90e-05"), (999999.5, "999999.500000"), (1e6, "1.00e+06"), (1000000.5, "1.00e+06")],
)
def test_six_decimals_are_for_what_they_show(number: float, text: str) -> None:
    """From a ten-thousandth to a million, which is none."""
    assert readable(number) == text
