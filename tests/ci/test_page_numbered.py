"""A page of many checks has the numbers of those that a reader looks for, and lists all others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ci.junit import Suite
from ci.page import numbered
from ci.page.data import _stretches
from tests.ci.read_pages import page
from tests.ci.runs import check, suite

PASSES = (
    check("Layer 0 Value", rel_error="1e-13"),
    check("Layer 1 Value", rel_error="5e-11"),
    check("Layer 2 Value", rel_error="4e-11"),
    check("Layer 0 MLP Output", component="mlp", rel_error="1e-14"),
    check("Every rank finishes", component="run", rel_error="", tolerance=""),
)
RED = (
    check("Layer 0 Value", "known"),
    check("Layer 1 Value", "fail"),
    check("Layer 2 Value", "fail", rel_error="0.9"),
    check("Loss", "error", "output", rel_error="", tolerance=""),
)


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the limit."""
    return lambda number: monkeypatch.setattr(numbered, "MOST", number)


def two() -> tuple[Suite, Suite]:
    return suite("tp2", PASSES), suite("pp2", RED)


def test_up_to_the_limit_every_check_has_its_numbers(most: Callable[[int], None]) -> None:
    most(9)
    assert numbered.numbered(two()) == [*range(9)]
    assert numbered.said(9) == ""
    assert page(*two()).data["numbered"] == []


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        (1, [6]),  # the failure at the front
        (2, [6, 7]),
        (3, [6, 7, 8]),  # what could not be decided
        (4, [5, 6, 7, 8]),  # the known bug
        (5, [1, 5, 6, 7, 8]),  # the worst pass of a component
        (6, [1, 3, 5, 6, 7, 8]),
        (7, [1, 3, 4, 5, 6, 7, 8]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),  # the pass that is nearest to its limit
    ],
)
def test_beyond_it_what_is_no_pass_comes_first_then_the_worst_passes(
    most: Callable[[int], None], number: int, kept: list[int]
) -> None:
    most(number)
    assert numbered.numbered(two()) == kept


def test_of_equals_the_first_is_kept(most: Callable[[int], None]) -> None:
    most(2)
    same = tuple(check(f"Layer {layer} Value") for layer in range(4))
    assert numbered.numbered((suite("tp2", same),)) == [0, 1]
    assert numbered.numbered((suite("tp2", same[:2]), suite("pp2", same[:2]))) == [0, 2]
    assert numbered.numbered((suite("tp2", same), suite("pp2", same[:1]), suite("ep2", RED[1:3]))) == [5, 6]


def test_the_others_are_listed_with_status_and_colour_and_the_page_says_so(most: Callable[[int], None]) -> None:
    most(5)
    read = page(suite("pp2", RED), suite("tp2", PASSES))
    data = read.data
    assert data["numbered"] == [0, 1, 2, 3, 5]
    assert (data["status"], data["level"]) == ("kffeppppp", "333357740")
    assert data["rel"] == [0.6958, 0.6958, 0.9, "NaN", 5e-11]
    assert {len(data[column]) for column in ("share", "short", "max", "floor", "index", "ranks") if data[column]} == {5}
    assert set(data["more"]) == {"0", "1", "2", "3"}
    assert numbered.said(9) == (
        "All 9 checks are listed. 5 have their numbers here: first what is no pass, then the worst of each layout and "
        "component, then the passes nearest to their limits. The JUnit files have the numbers of all others."
    )
    assert numbered.said(9) in read.text


def test_stretches_say_which_entry_each_check_has() -> None:
    assert _stretches([]) == []
    assert _stretches([0, 1, 2, 0, 1, 2]) == [0, 3, 0, 3]
    assert _stretches([4, 4, 5, 7]) == [4, 1, 4, 2, 7, 1]
