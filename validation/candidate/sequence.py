"""Which positions of the sequence a rank holds, under context and sequence parallelism."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def ranges(
    length: int, cp: int, cp_rank: int, parts: int = 1, part: int = 0, ends: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Start and stop of each run of positions that a rank holds, in the order in which it holds them.

    Context parallelism cuts `length` positions into 2 * cp chunks and gives rank i chunks i and 2 * cp - 1 - i (zigzag:
    causal work is then the same on every rank). Sequence parallelism cuts what is left into `parts` equal parts. Of packed
    documents, which end at `ends`, each is cut for context parallelism by itself.
    """
    if cp == 1:
        owned = [(0, length)]
    else:
        whole = itertools.pairwise((0, *(ends or (length,))))
        owned = [run for start, stop in whole for run in _of_rank(start, stop, cp, cp_rank)]
    size = length // cp // parts
    return _cut(owned, part * size, (part + 1) * size)


def positions(length: int, cp: int, cp_rank: int, ends: Sequence[int] = ()) -> list[int]:
    """Every position that a context-parallel rank holds, in its order."""
    return [position for start, stop in ranges(length, cp, cp_rank, ends=ends) for position in range(start, stop)]


def _of_rank(start: int, stop: int, cp: int, cp_rank: int) -> list[tuple[int, int]]:
    """The two runs of a sequence, or of a document, that a context-parallel rank holds."""
    chunk = (stop - start) // (2 * cp)
    return [(start + index * chunk, start + (index + 1) * chunk) for index in (cp_rank, 2 * cp - 1 - cp_rank)]


def _cut(owned: list[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """The part from `start` to `stop`, counted along the concatenation of `owned`."""
    found, offset = [], 0
    for first, last in owned:
        low, high = max(start, offset), min(stop, offset + last - first)
        if low < high:
            found.append((first + low - offset, first + high - offset))
        offset += last - first
    return found
