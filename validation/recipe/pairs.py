"""Cases that hold every pair of values of switches and degrees: a covering array.

What cannot go together is learned from the rules that refuse cases. Each pair is asked for first. If a row is refused all the
same, its smallest part that is refused becomes a rule for the next try.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from validation.case.errors import EnvironmentMissing
from validation.case.layout import Layout
from validation.recipe.reduce import smallest

STEP = "copies"
"""The degree of no name: how often the smallest number of data-parallel ranks is there."""


@dataclass(frozen=True)
class Value:
    """One value of a factor: degrees of the layout, and words that follow it. Neither for the default."""

    degrees: tuple[tuple[str, int], ...] = ()
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join(["".join(f"{word}{degree}" for word, degree in self.degrees), *self.words]).strip("+") or "default"


@dataclass(frozen=True)
class Factor:
    """A switch or a degree, with its values; the first is the default."""

    name: str
    values: tuple[Value, ...]


Row = tuple[Value, ...]
"""Values of different factors. Where a factor has none, it has its default."""
Refusal = Callable[[Row], str | None]
"""Why a row cannot be run; None if it can."""


@dataclass(frozen=True)
class Conflict:
    """Values that cannot go together, and why."""

    values: Row
    why: str


@dataclass(frozen=True)
class Array:
    """Rows that hold every pair of values that can go together. `conflicts` says which cannot."""

    factors: tuple[Factor, ...]
    rows: tuple[Row, ...]
    conflicts: tuple[Conflict, ...]

    @property
    def pairs(self) -> int:
        """How many pairs of values the rows hold."""
        return len({pair for row in self.rows for pair in combinations(enumerate(row), 2)})


def switched(row: Iterable[Value]) -> Row:
    """The values of a row that are no defaults."""
    return tuple(value for value in row if value != Value())


def arrangement(row: Iterable[Value]) -> str:
    """A row as a layout with its words: `tp2ep2dp4+mtp+distributed`."""
    values = list(row)
    degrees = dict(degree for value in values for degree in value.degrees)
    copies = degrees.pop(STEP, 1)
    layout = Layout().with_degrees(**degrees)
    layout = replace(layout, dp=copies * layout.data_parallel) if copies > 1 else layout
    return "+".join([layout.name, *(word for value in values for word in value.words)])


def cover(factors: Sequence[Factor], refusal: Refusal) -> Array:
    """The covering array. Raises EnvironmentMissing without covertable, ValueError for a value that is refused alone."""
    conflicts = _of_pairs(factors, refusal)
    conflicts += _of_degrees(factors, conflicts, refusal)
    while True:
        rows = _rows(factors, conflicts)
        learned = {conflict.values: conflict for row in rows if (conflict := _conflict(row, refusal))}
        if not learned:
            return Array(tuple(factors), rows, tuple(conflicts))
        conflicts += learned.values()


def _of_pairs(factors: Sequence[Factor], refusal: Refusal) -> list[Conflict]:
    found = []
    for value in (value for factor in factors for value in factor.values):
        if why := refusal(switched([value])):
            raise ValueError(f"{value} is refused alone: {why}")
    for one, other in combinations(factors, 2):
        for pair in ((first, second) for first in one.values[1:] for second in other.values[1:]):
            found += [Conflict(pair, why)] if (why := refusal(pair)) else []
    return found


def _of_degrees(factors: Sequence[Factor], known: Sequence[Conflict], refusal: Refusal) -> list[Conflict]:
    """What three degrees and more refuse together: there are few of them, and each that is known saves a try."""
    found: list[Conflict] = []
    layouts = product(*(factor.values for factor in factors if any(value.degrees for value in factor.values)))
    for row in sorted(layouts, key=lambda row: len(switched(row))):
        if not any(set(conflict.values) <= set(row) for conflict in (*known, *found)) and (conflict := _conflict(row, refusal)):
            found.append(conflict)
    return found


def _conflict(row: Row, refusal: Refusal) -> Conflict | None:
    """The smallest part of a row that is refused; None if the row is not."""
    if not refusal(switched(row)):
        return None
    part = smallest(switched(row), lambda values: refusal(values) is not None)
    return Conflict(part, refusal(part) or "")


def _rows(factors: Sequence[Factor], conflicts: Sequence[Conflict]) -> tuple[Row, ...]:
    try:
        from covertable import make
    except ImportError:
        raise EnvironmentMissing(
            "covertable is not installed, which chooses the cases of all pairs; `pip install -r requirements/recipes.txt`"
        ) from None
    numbers = {index: list(range(len(factor.values))) for index, factor in enumerate(factors)}
    found: list[dict[int, int]] = make(numbers, constraints=[_rule(factors, conflict) for conflict in conflicts])
    return tuple(tuple(factor.values[row[index]] for index, factor in enumerate(factors)) for row in found)


def _rule(factors: Sequence[Factor], conflict: Conflict) -> dict[str, Any]:
    """The conflict as covertable takes it, with factors and values by their numbers: not all of these in one row."""
    places = [
        (index, factor.values.index(value))
        for index, factor in enumerate(factors)
        for value in conflict.values
        if value in factor.values
    ]
    return {"operator": "or", "conditions": [{"operator": "ne", "left": index, "value": value} for index, value in places]}


def possible(factors: Sequence[Factor]) -> int:
    """How many rows there would be with every combination."""
    return math.prod(len(factor.values) for factor in factors)
