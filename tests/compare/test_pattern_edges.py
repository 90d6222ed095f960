"""Patterns at their edges: how few or how many are just enough, and numbers exactly at what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from tests.compare.test_pattern import measured, tensor
from validation.case.axes import Axis, Region
from validation.compare.difference import Difference
from validation.compare.extent import Span
from validation.compare.pattern import Surroundings, _of_members, _within, factor, hints, meaning_of, whereabouts
from validation.compare.piece import Box

EQUAL = Difference(4, 0, 0.0, (0,), 0.0, 0.0, 1.0, 1.0, 0, 0)


def with_places(wrong: Sequence[int], ranks: int, places: Sequence[Mapping[str, int]] = ()) -> tuple[str, ...]:
    """What is said where these ranks of so many, which hold a row each, are wrong in two elements."""
    right = tensor((ranks, 6))
    candidates = [right.clone() for _ in range(ranks)]
    for rank in wrong:
        candidates[rank][rank, :2] += torch.tensor([1.0, -3.0])
    boxes: list[Box] = [((rank, rank + 1), (0, 6)) for rank in range(ranks)]
    return hints(measured(candidates, right, boxes), Surroundings(places=places))


@pytest.mark.parametrize(("wrong", "more"), [(3, ""), (4, " and 1 more")])
def test_three_places_are_named_and_the_others_counted(wrong: int, more: str) -> None:
    right = tensor((wrong, 6))
    candidates = [right.clone() for _ in range(wrong)]
    for rank in range(wrong):
        candidates[rank][rank, rank] += 1
    boxes: list[Box] = [((rank, rank + 1), (0, 6)) for rank in range(wrong)]
    said = whereabouts(measured(candidates, right, boxes))
    assert said == "wrong: rank 0 [0, 0], rank 1 [1, 1], rank 2 [2, 2]" + more


@pytest.mark.parametrize(("size", "said"), [(1, ()), (2, ("one element only",)), (3, ("one element only",))])
def test_one_element_is_said_of_more_than_one(size: int, said: tuple[str, ...]) -> None:
    right = tensor((size,))
    candidate = right.clone()
    candidate[0] += 0.123
    found = hints(measured([candidate], right), Surroundings())
    assert tuple(one for one in found if "element" in one) == said


def test_where_nothing_is_finite_all_of_it_is_named() -> None:
    """No number is the largest then."""
    right = tensor((2, 3))
    candidates = [torch.full((2, 3), math.nan, dtype=torch.float64)] * 2
    boxes: list[Box] = [((0, 1), (0, 3)), ((1, 2), (0, 3))]
    assert whereabouts(measured(candidates, right, boxes)) == "wrong: rank 0 [0, 0:3], rank 1 [1, 0:3]"


@pytest.mark.parametrize("power", [160, 300])
def test_a_number_whose_square_is_none_is_no_factor(power: int) -> None:
    """What stands in freed memory may be as large as this."""
    huge = 10.0**power
    assert factor(replace(EQUAL, sum_squares=1e308, cross=huge, differing=4), 0.0) is None


def test_a_thousandth_of_the_largest_error_is_small_against_it() -> None:
    """Exactly that is; more is not."""
    right = tensor((2, 2))
    for times, said in ((1.0, "wrong: rank 0 [0, 0:2]"), (1.001, "wrong: rank 0 [0, 0:2], rank 1 [1, 0:2]")):
        found = measured([right + 1, right + 1], right, [((0, 1), (0, 2)), ((1, 2), (0, 2))])
        first, second = found.pieces
        second = replace(second, difference=replace(second.difference, max_abs=1e-3 * first.difference.max_abs * times))
        assert whereabouts(replace(found, pieces=(first, second))) == said


def test_a_factor_of_several_pieces_is_that_of_all() -> None:
    """Each place counted once; where one is right it is no factor of everything."""
    right = tensor((4, 3))
    boxes: list[Box] = [((0, 2), (0, 3)), ((2, 4), (0, 3))]
    both = hints(measured([2 * right, 2 * right], right, boxes), Surroundings())
    assert both == ("2 times the reference everywhere",)
    one = hints(measured([2 * right, right], right, boxes), Surroundings())
    assert one[0] == "2 times the reference in every wrong piece"
    other = hints(measured([2 * right, 3 * right], right, boxes), Surroundings())
    assert not any("times the reference" in said for said in other)


@pytest.mark.parametrize(
    ("difference", "constant"),
    [
        (EQUAL, None),
        (replace(EQUAL, sum_squares=1.0, cross=2.0), 2.0),
        (replace(EQUAL, sum_squares=1.0, cross=2.0, nonfinite_candidate=1), None),
        (replace(EQUAL, sum_squares=1.0, cross=0.0, reference_squares=0.0), None),
        (replace(EQUAL, sum_squares=0.25, cross=0.5, reference_squares=0.25), 2.0),
        (replace(EQUAL, sum_squares=1e-6, cross=1.0), None),
        (replace(EQUAL, sum_squares=1e6, cross=1.0 + 1e3), 1001.0),
    ],
)
def test_a_constant_leaves_nothing_of_the_error(difference: Difference, constant: float | None) -> None:
    """What is right has none, nor what is not finite, nor an error across the reference, however small."""
    assert factor(difference, 0.0) == constant


@pytest.mark.parametrize(
    ("left", "noise", "constant"),
    [(0.005, 0.1, True), (0.02, 0.1, False), (0.03, 0.5, True), (0.05, 0.5, False)],
)
def test_a_constant_may_leave_what_rounds_but_no_hundredth_of_the_error(left: float, noise: float, constant: bool) -> None:
    """The square of the noise, of the reference's; a hundredth of the error's square at most."""
    difference = replace(EQUAL, sum_squares=4.0, cross=1 + math.sqrt(4.0 - left))
    assert (factor(difference, noise) is not None) is constant


def test_exactly_what_rounds_may_be_left() -> None:
    assert factor(replace(EQUAL, sum_squares=4.0 + 2.0**-6, cross=3.0), 2.0**-3) == 3.0


@pytest.mark.parametrize(
    ("constant", "noise", "said"),
    [
        (0.125, 0.125, "never computed"),
        (0.126, 0.125, ""),
        (-1.0, 0.0, "the sign is wrong"),
        (2.0, 0.0, "tp or dp: summed or multiplied once too often"),
        (0.5, 0.0, "1/tp or 1/dp: a sum or a factor is missing, or divided once too often"),
        (4.0, 0.0, "ep: summed or multiplied once too often"),
        (3.0, 0.0, ""),
    ],
)
def test_a_constant_is_called_by_all_that_it_may_be(constant: float, noise: float, said: str) -> None:
    assert meaning_of(constant, {"tp": 2.0, "dp": 2.0, "ep": 4.0}, noise) == said


@pytest.mark.parametrize(
    ("factors", "noise", "said"),
    [
        ((1.625, 0.375), 2.0**-4, False),
        ((1.65, 0.35), 2.0**-4, True),
        ((0.75, 0.28), 2.0**-4, True),
        ((0.75, 0.28), 0.0, False),
        ((0.75, 0.25), 0.0, True),
    ],
)
def test_copies_that_add_up_within_what_rounds_miss_a_reduction(factors: tuple[float, float], noise: float, said: bool) -> None:
    """Sum or mean; copies that are each nearly right say nothing."""
    right = tensor((3, 4))
    found = hints(measured([part * right for part in factors], right), Surroundings(noise=noise))
    assert any("a reduction over them is missing" in one for one in found) is said


def test_one_rank_that_is_wrong_is_named_wherever_it_stands() -> None:
    """Without places, or with too few; several without anything in common are not."""
    assert with_places([1], 3) == ("rank 1 only",)
    assert with_places([2], 3, [{"tp": 0}, {"tp": 1}]) == ("rank 2 only",)
    assert with_places([0, 1], 3) == ()
    assert with_places([1], 2, [{"tp": 0}, {"tp": 1}]) == ("rank 1 only (tp 1)",)


HEADS = Axis(12 * 8, "head", 8)


def members(span: Span, axis: Axis = HEADS) -> str:
    return _of_members(span, axis)


@pytest.mark.parametrize(
    ("indices", "said"),
    [
        ([*range(8), *range(40, 48), *range(88, 96)], "heads 0, 5, 11 only"),
        ([*range(8), *range(16, 24), *range(40, 48), *range(88, 96)], ""),
        ([8, 9], "head 1 only"),
        ([8], ""),
        ([*range(8), 40, 41], "heads 0, 5 only"),
        ([*range(8), 40], ""),
    ],
)
def test_a_quarter_of_the_members_each_by_a_quarter_is_few(indices: list[int], said: str) -> None:
    """Three of twelve at most, and at least two of a member's eight."""
    assert members(Span.of(indices)) == said


def test_of_two_members_one_is_named_and_of_one_none() -> None:
    assert members(Span.of(range(8, 16)), replace(HEADS, size=16)) == "head 1 only"
    assert members(Span.of(range(8)), replace(HEADS, size=8)) == ""


@pytest.mark.parametrize(
    ("total", "indices", "said"),
    [
        (8, range(1, 8), "every position but the first, which sees only itself: what mixes positions"),
        (3, range(1, 3), "every position but the first, which sees only itself: what mixes positions"),
        (2, [1], "position 1 only"),
        (8, [1, 7], ""),
        (8, [3], "position 3 only"),
        (8, range(2, 5), "positions 2:5 only"),
        (8, range(8), ""),
        (8, range(2, 8), "positions 2:8 only"),
    ],
)
def test_runs_of_positions_are_said_as_such(total: int, indices: Sequence[int], said: str) -> None:
    assert members(Span.of(list(indices)), Axis(total, "position", order=True)) == said


@pytest.mark.parametrize(
    ("indices", "within"),
    [
        (range(4, 8), True),
        ([4], True),
        (range(3, 8), False),
        ([4, 12], True),
        ([4, 5, 12], True),
        ([20], True),
    ],
)
def test_a_region_is_the_one_if_a_quarter_of_it_is_wrong_and_nothing_else(indices: Sequence[int], within: bool) -> None:
    """In every period that it is wrong in: four of eight indices, of which one is just enough."""
    assert _within(Span.of(list(indices)), Region("rotary dimensions", 4, 8, 8)) is within


def test_less_than_a_quarter_of_a_region_is_by_chance() -> None:
    """Of eight in each period of sixteen, two are needed, over all periods that are wrong."""
    region = Region("rotary dimensions", 8, 16, 16)
    assert _within(Span.of([8, 9]), region)
    assert not _within(Span.of([8]), region)
    assert _within(Span.of([8, 9, 24, 25]), region)
    assert not _within(Span.of([8, 9, 24]), region)
