"""The smallest set that still fails: delta debugging, which takes parts away as long as what is left fails.

Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28 (2002), algorithm ddmin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

Part = TypeVar("Part")


def smallest(parts: Sequence[Part], fails: Callable[[tuple[Part, ...]], bool]) -> tuple[Part, ...]:
    """The parts, in their order, of which none can be left out: without any one of them nothing fails.

    `fails` is asked for no set twice. Raises ValueError if all parts together do not fail.
    """
    known: dict[tuple[int, ...], bool] = {}

    def failing(places: Sequence[int]) -> bool:
        key = tuple(places)
        if key not in known:
            known[key] = fails(tuple(parts[place] for place in key))
        return known[key]

    left = list(range(len(parts)))
    if not failing(left):
        raise ValueError("all parts together do not fail: there is nothing to reduce")
    pieces = 2
    while len(left) > 1:
        cut = _cut(left, pieces)
        rests = [[place for place in left if place not in piece] for piece in cut]
        found = next(filter(failing, [*cut, *rests] if pieces > 2 else cut), None)
        if found is not None:
            pieces = 2 if found in cut else max(pieces - 1, 2)
            left = found
        elif pieces >= len(left):
            break
        else:
            pieces = min(2 * pieces, len(left))
    return () if len(left) == 1 and failing([]) else tuple(parts[place] for place in left)


def _cut(places: list[int], pieces: int) -> list[list[int]]:
    """The places in so many pieces, as even as can be."""
    borders = [len(places) * piece // pieces for piece in range(pieces + 1)]
    return [places[start:end] for start, end in pairwise(borders)]
