"""Numbers that no tensor can have together are not believed, whatever they say of their limits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci import reasons as reasons_of
from ci.expected import Manifest
from ci.numbers import FLOORS
from tests.ci.green import CHECKS, COMMIT, EXPECTED, FILE, NUMBERS, OF_BUG, SUITE, limited, verdict, with_check, with_properties
from validation.compare import limits

IMPOSSIBLE = {
    "above the average of all": ({"avg_diff": "4e-15"}, "avg_diff 4e-15 is above max_diff 3e-15"),
    "an average of less": ({"max_diff": "1.0"}, "max_diff 1 is more than 24 elements with avg_diff 1e-15 can have"),
    "no difference": ({"max_diff": "0.0", "avg_diff": "0.0"}, "max_diff 0 and rel_error 2.5e-15"),
    "no error": ({"rel_error": "0.0"}, "max_diff 3e-15 and rel_error 0"),
    "no largest": ({"max_diff": None}, "max_diff is missing"),
    "largest is none": ({"max_diff": "nan"}, "max_diff nan"),
    "below zero": ({"avg_diff": "-1e-15"}, "avg_diff -1e-15"),
    "no elements": ({"elements": "0"}, "max_diff 3e-15 is more than 0 elements with avg_diff 1e-15 can have"),
    "half of it": ({"elements": "12"}, "elements 12, and its tensor has 24"),
    "an index too far": ({"worst_index": "[3, 6]"}, "worst_index [3, 6] of 24 elements"),
    "an index of words": ({"worst_index": "[1, b]"}, "worst_index [1, b]"),
    "ranks of a larger layout": ({"ranks": "0,1,2"}, "ranks 0,1,2 of 2"),
    "a rank twice": ({"ranks": "0,0,1"}, "ranks 0,0,1 of 2"),
    "no ranks": ({"ranks": None}, "ranks is missing of 2"),
    "a rank that holds nothing": ({"worst_rank": "3"}, "worst_rank 3 of ranks 0,1"),
    "scaled by more than the error": ({"projection": "1.00000001"}, "projection 1 and rel_error 2.5e-15"),
    "a wider floor": ({"floor": "1e-3", "ratio": "2.5e-12"}, "tolerance 1e-10 is not 2 times floor 0.001"),
    "another ratio": ({"floor": "5e-11", "ratio": "0.5"}, "rel_error 2.5e-15 is not ratio 0.5 times floor 5e-11"),
    "above its largest": ({"max_tolerance": "2e-15"}, "max_diff 3e-15 is above max_tolerance 2e-15"),
    "a largest that is none": ({"max_tolerance": "2e"}, "max_diff 3e-15 is above max_tolerance nan"),
}
"""What can be true of no tensor."""


@pytest.mark.parametrize(("changed", "said"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("at", [1, 3])
def test_numbers_that_one_tensor_cannot_have_are_not_believed(
    tmp_path: Path, at: int, changed: dict[str, str | None], said: str
) -> None:
    """Neither of a pass nor of a known bug, which may be larger than its limits."""
    numbers = {**NUMBERS, **(OF_BUG if at == 3 else {}), "rel_error": "2.5e-15", **changed}
    numbers |= {"tolerance": "2e-8"} if changed.get("projection") else {}
    properties = {name: value for name, value in numbers.items() if value is not None}
    suite = with_check(at, properties=properties)(SUITE)
    junit.write(tmp_path / FILE, suite)
    found = [why for _, why in verdict(tmp_path, Manifest((limited(0.5, at),), COMMIT, "false")).reasons]
    name = f"{CHECKS[at].name} ({CHECKS[at].component})"
    red = not (at == 3 and "max_tolerance" in changed)
    assert found == ([f"1 check has numbers that cannot be true: {name} ({said})"] if red else [])


@pytest.mark.parametrize(
    ("changed", "precision"),
    [
        pytest.param({"floor": "5e-11", "ratio": "5e-05"}, "bf16", id="floors"),
        pytest.param({"floor": "5e-11", "ratio": "5e-05", "max_tolerance": "3e-15"}, "fp32", id="the largest at its limit"),
        pytest.param({"avg_diff": "3e-15"}, "fp64", id="all alike"),
        pytest.param({"avg_diff": "1.25e-16"}, "fp64", id="one element alone"),
        pytest.param({"max_diff": "1e-170", "avg_diff": "1e-170", "rel_error": "0.0"}, "fp64", id="squares that are zero"),
        pytest.param({"max_diff": "0.0", "avg_diff": "0.0", "rel_error": "0.0", "projection": "nan"}, "fp64", id="equal"),
        pytest.param({"worst_index": "[3, 5]"}, "fp64", id="the last element"),
    ],
)
def test_numbers_that_one_tensor_can_have_are_believed(tmp_path: Path, changed: dict[str, str], precision: str) -> None:
    junit.write(tmp_path / FILE, with_properties(precision=precision)(with_check(1, properties={**NUMBERS, **changed})(SUITE)))
    expected = replace(EXPECTED, properties={**EXPECTED.properties, "precision": precision})
    assert verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons == ()


def test_in_fp32_the_largest_difference_has_a_limit_that_is_said(tmp_path: Path) -> None:
    """Whoever leaves it out has not shown that it holds. The gate knows floors as the checks do."""
    numbers = {**NUMBERS, "floor": "5e-11", "ratio": "5e-05"}
    junit.write(tmp_path / FILE, with_properties(precision="fp32")(with_check(1, properties=numbers)(SUITE)))
    expected = replace(EXPECTED, properties={**EXPECTED.properties, "precision": "fp32"})
    ((_, why),) = verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons
    assert why == "1 check has numbers that cannot be true: Layer 0 Query (mla) (max_tolerance is missing)"
    assert FLOORS == limits.FLOORS


def test_no_check_has_the_limit_of_another(tmp_path: Path) -> None:
    """Steps may be off by ten times as much as other tensors, and a user's own check by what it says."""
    junit.write(tmp_path / FILE, with_check(1, properties={**NUMBERS, "tolerance": "1e-9"})(SUITE))
    ((_, why),) = verdict(tmp_path, Manifest((limited(1e-9, 2),), COMMIT, "false")).reasons
    assert why == "1 check passes: Layer 0 Query (mla) under a limit above 1e-10"


@pytest.mark.parametrize(
    ("name", "decided_by", "own", "limit", "believed"),
    [
        ("Step 1 Embedding Weight Second Moment", "formula", 0.5, "1.24", True),
        ("Step 1 Embedding Weight Second Moment", "formula", 1.0, "2.99", True),
        ("Step 1 Embedding Weight Second Moment", "formula", 0.5, "1.26", False),
        ("Step 1 Embedding Weight Second Moment", "formula", 1e-9, "1.1e-9", False),
        ("Step 1 Embedding Weight Second Moment", "", 0.5, "0.6", False),
        ("Step 1 Embedding Weight First Moment", "formula", 0.5, "0.6", False),
    ],
)
def test_a_second_moment_that_a_formula_holds_may_have_the_limit_of_a_square(
    name: str, decided_by: str, own: float, limit: str, believed: bool, tmp_path: Path
) -> None:
    """As the checks grant it, below fp64 alone, where the reference tells limits."""
    numbers = {**NUMBERS, "tolerance": limit, **({"decided_by": decided_by} if decided_by else {})}
    check = replace(with_check(1, properties=numbers)(SUITE).checks[1], component="steps", name=name)
    checks = (SUITE.checks[0], check)
    junit.write(tmp_path / FILE, replace(SUITE, checks=checks))
    tensor = limited(own, 1).tensors[SUITE.checks[1].component, SUITE.checks[1].name]
    names = tuple((one.component, one.name) for one in checks)
    expected = replace(EXPECTED, checks=names, tensors={names[1]: tensor}, excuses=())
    reasons = [why for _, why in verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons]
    widest = 1.25 if limit == "1.26" else own
    assert reasons == ([] if believed else [f"1 check passes: {name} (steps) under a limit above {widest:g}"])
    assert (reasons_of.FORMULA, reasons_of._DECIDING) == (limits.FORMULA, (limits.DECIDES_BELOW, limits.DECIDES_BELOW_IN_FP8))


@pytest.mark.parametrize(
    ("numbers", "said", "red"),
    [
        (("0.0", "0.0"), "Max diff: 0.000000, Avg diff: 0.000000 (24 elements equal)", False),
        (("3.004e-15", "1e-15"), "Max diff: 3.00e-15, Avg diff: 1.00e-15 (relative 2.5e-15)", False),
        (("0.00012345", "0.0001"), "Max diff: 0.000123, Avg diff: 0.000100; a", False),
        (("2.0", "1.5"), "Max diff: 0.000123, Avg diff: 1.500000 (relative 2.5e-15)", True),
        (("3e-15", "1e-15"), "Max diff: 0.000000, Avg diff: 1.00e-15 (relative 2.5e-15)", True),
        (("3e-15", "1e-15"), "Max diff: 3.00e-15, Avg diff: none (relative 2.5e-15)", True),
    ],
)
def test_the_line_that_viewers_show_has_the_numbers_that_are_judged(
    tmp_path: Path, numbers: tuple[str, str], said: str, red: bool
) -> None:
    """As far as its digits go."""
    measured = {**NUMBERS, "max_diff": numbers[0], "avg_diff": numbers[1]} | ({"rel_error": "0.0"} if "equal" in said else {})
    suite = with_check(1, details=f"PASS: Layer 0 Query - {said}", properties=measured)(SUITE)
    junit.write(tmp_path / FILE, suite)
    found = [why for _, why in verdict(tmp_path).reasons]
    assert [f"(mla) ({'avg' if 'none' in said else 'max'}_diff" in why for why in found] == [True] * red
