"""What known bugs hide in a case is said by its size."""

from __future__ import annotations

from validation.checks.excused import excused


def known(bug: str, error: float, without: float) -> dict[str, str]:
    return {"known": bug, "rel_error": repr(error), "rel_error_without": repr(without)}


def test_each_bug_has_its_checks_its_largest_error_and_what_is_left_without_it() -> None:
    checks = [known("a", 0.5, 1e-15), {"rel_error": "0.9"}, known("b", 0.1, 0.0), known("a", 0.25, 4e-15)]
    assert [(one.bug, one.checks, one.largest, one.without) for one in excused(checks)] == [
        ("a", 2, 0.5, 4e-15),
        ("b", 1, 0.1, 0.0),
    ]


def test_the_line_counts_and_measures() -> None:
    one, two = excused([known("a", 0.5, 1e-15)]), excused([known("a", 0.5, 1e-15)] * 2)
    assert one[0].line == "a: 1 check differs by up to 5.0e-01 (relative); without it by up to 1.0e-15"
    assert two[0].line.startswith("a: 2 checks differ by up to ")


def test_an_error_that_is_no_number_has_no_limit() -> None:
    """What was freed may hold anything."""
    (one,) = excused([known("a", 0.5, 1e-15), known("a", float("nan"), 2e-15), known("a", float("inf"), 0.0)])
    assert one.line == "a: 3 checks differ without limit; without it by up to 2.0e-15"


def test_a_case_without_known_bugs_says_nothing() -> None:
    assert excused([{"rel_error": "0.9"}, {}]) == ()
