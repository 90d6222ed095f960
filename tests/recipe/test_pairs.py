"""Cases that hold every pair of values that can go together."""

from __future__ import annotations

import sys
from itertools import combinations

import pytest

from validation.case.errors import EnvironmentMissing
from validation.recipe.pairs import Array, Factor, Refusal, Row, Value, arrangement, cover, possible, switched

D = Value()
TP, EP = Factor("tp", (D, Value((("tp", 2),)))), Factor("ep", (D, Value((("ep", 2),)), Value((("ep", 4),))))
COPIES = Factor("copies", (D, Value((("copies", 2),))))
WORDS = tuple(Factor(word, (D, Value(words=(word,)))) for word in ("mtp", "mean", "full", "distributed", "seqaux"))
FACTORS = (TP, EP, COPIES, *WORDS)


def uncovered(array: Array) -> list[tuple[str, str]]:
    """The pairs of values, defaults included, that no row holds."""
    held = {pair for row in array.rows for pair in combinations(enumerate(row), 2)}
    places = list(enumerate(array.factors))
    every = {((i, x), (j, y)) for (i, one), (j, other) in combinations(places, 2) for x in one.values for y in other.values}
    assert len(held) == array.pairs
    return sorted((str(one[1]), str(other[1])) for one, other in every - held)


def refuses(*parts: set[str]) -> Refusal:
    """Refuse rows that have all of one of these parts."""
    return lambda row: next((f"not {sorted(part)}" for part in parts if part <= set(map(str, row))), None)


def test_without_constraints_a_few_rows_hold_every_pair() -> None:
    """384 combinations."""
    array = cover(FACTORS, refuses())
    assert uncovered(array) == []
    assert array.conflicts == ()
    assert possible(FACTORS) == 384
    assert len(array.rows) <= 12


def test_what_cannot_go_together_is_in_no_row_and_costs_no_other_pair() -> None:
    """A pair is asked for; three that cannot be together are learned from a row that has them, and each two of them stay."""
    three = [{"tp2", "ep4", "copies2"}, {"full", "seqaux", "distributed"}]
    array = cover(FACTORS, refuses({"mtp", "mean"}, *three))
    assert uncovered(array) == [("mtp", "mean")]
    assert not any(
        {"mtp", "mean"} <= set(map(str, row)) or any(part <= set(map(str, row)) for part in three) for row in array.rows
    )
    learned = {frozenset(map(str, conflict.values)): conflict.why for conflict in array.conflicts}
    assert learned.pop(frozenset({"mtp", "mean"})) == "not ['mean', 'mtp']"
    assert learned.keys() <= {frozenset(part) for part in three}


def test_the_same_rows_come_every_time() -> None:
    assert cover(FACTORS, refuses({"mtp", "mean"})) == cover(FACTORS, refuses({"mtp", "mean"}))


def test_a_value_that_is_refused_alone_is_a_mistake_in_the_table() -> None:
    with pytest.raises(ValueError, match="mean is refused alone: not"):
        cover(FACTORS, refuses({"mean"}))


def test_without_covertable_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "covertable", None)
    with pytest.raises(EnvironmentMissing, match=r"requirements/recipes\.txt"):
        cover(FACTORS, refuses())


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ((), "single"),
        ((TP.values[1], EP.values[2], D, WORDS[0].values[1]), "tp2ep4+mtp"),
        ((EP.values[1], COPIES.values[1], WORDS[1].values[1], WORDS[2].values[1]), "ep2dp4+mean+full"),
        ((COPIES.values[1],), "dp2"),
        ((Value((("pp", 2),), ("1-3",)), WORDS[3].values[1]), "pp2+1-3+distributed"),
    ],
)
def test_a_row_is_a_layout_with_words(row: Row, name: str) -> None:
    """Copies multiply the data-parallel ranks that the other degrees need; defaults say nothing."""
    assert arrangement(row) == name
    assert arrangement(switched(row)) == name
