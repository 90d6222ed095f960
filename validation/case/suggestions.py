"""What would work instead: the ends of the sentences in which a case is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable


def join(words: Iterable[str], last: str = "and") -> str:
    """The words as a list in a sentence: `local, local-stock and te`."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def _divisors(size: int) -> list[int]:
    low = [number for number in range(1, math.isqrt(size) + 1) if size % number == 0]
    return sorted({*low, *(size // number for number in low)})


def nearest(degree: int, size: int, word: str) -> str:
    """The degrees near `degree` that divide `size`, as the end of a sentence: `tp1, tp2 and tp4 do`."""
    below = [number for number in _divisors(size) if number < degree][-2:]
    above = [number for number in _divisors(size) if number > degree][:1]
    works = [f"{word}{number}" for number in below + above]
    return f"{join(works)} {'do' if len(works) > 1 else 'does'}"


def multiples(size: int, step: int) -> str:
    """The multiples of `step` around `size`: `48 or 52`."""
    below = size // step * step
    return join([str(number) for number in (below, below + step) if number], "or")
