"""Pieces: which part of a whole tensor a rank holds, and whether the parts together are the whole."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: start and stop along each dimension. A scalar's box is empty."""


def whole(shape: Sequence[int]) -> Box:
    """The box of an entire tensor of `shape`."""
    return tuple((0, size) for size in shape)


def share(size: int, parts: int, index: int) -> tuple[int, int]:
    """Start and stop of part `index` when `size` elements are cut into `parts` equal parts, in order."""
    length = size // parts
    return index * length, (index + 1) * length


@functools.lru_cache(1 << 12)
def box_shape(box: Box) -> tuple[int, ...]:
    """The shape of the part that `box` describes. Kept, for a rank asks thousands of times for a few hundred boxes."""
    return tuple(stop - start for start, stop in box)


@functools.lru_cache(1 << 12)
def slices(box: Box) -> tuple[slice, ...]:
    """The box as an index for a tensor; kept, too."""
    return tuple(slice(start, stop) for start, stop in box)


def uncovered(boxes: Iterable[Box], shape: Sequence[int]) -> Box | None:
    """A part of `shape` that none of `boxes` covers, or None where they cover it all.

    Cuts every dimension at each start and stop, which leaves cells that a box holds entirely or not at all.
    """
    distinct = frozenset(boxes)
    return None if whole(shape) in distinct else _uncovered(distinct, tuple(shape))


@functools.lru_cache(1 << 12)
def _uncovered(distinct: frozenset[Box], shape: tuple[int, ...]) -> Box | None:
    """Kept: a value, its gradient and its moments are cut alike, in every layer."""
    cuts = [sorted({0, size, *(edge for box in distinct for edge in box[axis])}) for axis, size in enumerate(shape)]
    cells = itertools.product(*(list(itertools.pairwise(edges)) for edges in cuts))
    held: set[Box] = set()
    for box in distinct:
        within = (
            [(a, b) for a, b in itertools.pairwise(edges) if start <= a and b <= stop]
            for edges, (start, stop) in zip(cuts, box, strict=True)
        )
        held.update(itertools.product(*within))
    return next((cell for cell in cells if cell not in held), None)
