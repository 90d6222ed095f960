"""The smallest set of switches that still fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import quick
from validation.recipe.reduce import smallest


@quick
@given(st.sets(st.integers(0, 11)), st.integers(1, 12))
def test_of_a_pair_that_fails_together_the_pair_is_found(guilty: set[int], size: int) -> None:
    """Whichever and however many they are, and in their order."""
    guilty = {place for place in guilty if place < size}
    assert smallest(range(size), lambda parts: guilty <= set(parts)) == tuple(sorted(guilty))


@quick
@given(st.lists(st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=4))
def test_no_part_of_what_is_found_can_be_left_out(causes: list[set[int]]) -> None:
    """Also of several causes, of which one is found."""

    def fails(parts: tuple[int, ...]) -> bool:
        return any(cause <= set(parts) for cause in causes)

    found = smallest(range(10), fails)
    assert fails(found)
    assert not any(fails((*found[:place], *found[place + 1 :])) for place in range(len(found)))


def test_what_fails_without_any_switch_is_reduced_to_none() -> None:
    assert smallest(["tp2", "full"], lambda parts: True) == ()


def test_nothing_is_asked_twice_and_few_questions_are_enough() -> None:
    """One of 16 parts in 9 questions, two of 16 in fewer than 60."""
    for guilty, most in (({11}, 9), ({3, 12}, 59)):
        asked: list[tuple[int, ...]] = []

        def fails(parts: tuple[int, ...], guilty: set[int] = guilty, asked: list[tuple[int, ...]] = asked) -> bool:
            asked.append(parts)
            return guilty <= set(parts)

        assert set(smallest(range(16), fails)) == guilty
        assert len(asked) == len(set(asked)) <= most


def test_what_does_not_fail_is_not_reduced() -> None:
    with pytest.raises(ValueError, match="do not fail"):
        smallest([1, 2], lambda parts: False)
