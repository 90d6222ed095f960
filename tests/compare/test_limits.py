"""Limits: what they are where nothing else is said, and what is said of those that decide nothing.

Everything is asked for inside the tests: what is computed while tests are collected shows nothing to `nox -s mutants`.
"""

from __future__ import annotations

import math

import pytest

from validation.compare.limits import AFTER_STEPS, EXACT, FLOORS, FORMULA, IN_FP64, Limits, above_floor, decides_below


def test_the_limits_of_fp64_are_between_rounding_and_the_smallest_bug() -> None:
    """Rounding is 5e-15, the smallest real bug 1e-6; after steps half of the digits of small gradients are left."""
    assert (Limits(1e-10), Limits(1e-9), Limits(0.0, 0.0)) == (IN_FP64, AFTER_STEPS, EXACT)


def test_a_limit_is_twice_the_floor_and_a_thousandth_in_fp32() -> None:
    """Without a magnitude the absolute limit is that of numbers around 1, and only fp32 has one."""
    assert above_floor(1e-5, "fp32") == Limits(2e-5, 1e-3, 1e-5, "")
    assert above_floor(1e-2, "bf16", 1000.0) == Limits(2e-2, None, 1e-2, "")
    assert above_floor(1e-5, "fp32", 1e4).max_abs == pytest.approx(10.0)
    assert above_floor(1e-5, "fp32", 0.5).max_abs == 1e-3


def test_an_element_may_turn_over_where_an_optimizer_steps() -> None:
    """As far as it may have shown, twice; the rest of the tensor keeps the floor."""
    assert above_floor(1e-5, "fp32", 1.0, 0.02) == Limits(2e-5, 0.04, 1e-5, "")
    assert above_floor(1e-5, "fp32", 1.0, 1e-4).max_abs == 1e-3
    assert above_floor(1e-5, "bf16", 1.0, 0.02).max_abs is None


@pytest.mark.parametrize(
    ("floor", "precision", "options", "said"),
    [
        (0.25, "bf16", {}, "cannot be decided in bf16: rounding alone is off by 25 %; --isolated or --precision fp32 can"),
        (0.84, "bf16", {"isolated": True}, "cannot be decided in bf16: rounding alone is off by 84 %; --precision fp32 can"),
        (3.0, "fp32", {}, "cannot be decided in fp32: rounding alone is off by 300 %; --isolated or --precision fp64 can"),
        (3.0, "fp32", {"isolated": True}, "cannot be decided in fp32: rounding alone is off by 300 %; --precision fp64 can"),
        (0.5, "bf16", {"fp8": True}, "cannot be decided in fp8: rounding alone is off by 50 %; the same without fp8 can"),
        (
            0.5,
            "bf16",
            {"fp8": True, "isolated": True},
            "cannot be decided in fp8: rounding alone is off by 50 %; the same without fp8 can",
        ),
    ],
)
def test_a_limit_that_decides_nothing_says_so_and_what_would(
    floor: float, precision: str, options: dict[str, bool], said: str
) -> None:
    """The whole sentence: it is all that a reader gets of a check that could not be decided."""
    assert above_floor(floor, precision, **options).undecided == said


def test_just_below_half_of_a_tensor_it_is_decided() -> None:
    """And in fp8 up to a tensor of zeros."""
    assert above_floor(0.2499, "bf16").undecided == ""
    assert above_floor(0.2499, "bf16", isolated=True).undecided == ""
    assert above_floor(0.4999, "bf16", fp8=True).undecided == ""
    assert above_floor(0.4999, "bf16").undecided != ""


@pytest.mark.parametrize(("fp8", "bound"), [(False, 1.25), (True, 3.0)])
def test_the_formula_decides_about_a_square_as_far_as_its_gradient_s_limit_goes(fp8: bool, bound: float) -> None:
    """A gradient that is off by the limit has a square that is off by so much. No limit is wider for it."""
    assert decides_below(fp8=fp8, squared=True) == bound
    below, above = math.nextafter(bound, 0) / FLOORS, bound / FLOORS
    assert above_floor(below, "bf16", fp8=fp8, by_formula=True) == Limits(FLOORS * below, None, below, "", FORMULA)
    assert above_floor(above, "bf16", fp8=fp8, by_formula=True).undecided == above_floor(above, "bf16", fp8=fp8).undecided != ""
    alone = math.nextafter(decides_below(fp8=fp8), 0) / FLOORS
    assert above_floor(alone, "bf16", fp8=fp8, by_formula=True) == above_floor(alone, "bf16", fp8=fp8)
