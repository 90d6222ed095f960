"""What one pass over a candidate and a reference finds, whoever makes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass  # not frozen: that takes five times as long to make, and a rank makes eight hundred
class Sums:
    """Sums of |d|, d d, r r and c r, the largest |d| with its first place, and how many elements differ.

    Where one of `totals` is not finite, an element is not, or a square has overflowed, and the rest means nothing.
    """

    totals: tuple[float, float, float, float]
    largest: float
    place: int
    differing: int
