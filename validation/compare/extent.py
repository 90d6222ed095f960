"""Extents: where in a piece the error is. Only asked of pieces that are wrong, so a right run pays and sends nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from validation.compare.difference import Difference
from validation.compare.piece import Box

SIGNIFICANT = 1e-3
"""An element is wrong where |d| is above this part of the largest |d|: what is left below it is rounding or an echo."""
MOST_RUNS = 256
"""Runs of indices that are kept apart along a dimension: enough for the rotary rows of DeepSeek-V3's 128 heads."""
_ROUNDING = {
    torch.float64: 1e-10,
    # Sums round at every step, and both sides sum in float32.
    torch.float32: 32 * torch.finfo(torch.float32).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 4 * torch.finfo(torch.float16).eps,
}
"""A piece's relative error up to which nothing is looked for; whole numbers do not round."""
_CHUNK = 1 << 22
"""Elements looked at at a time."""


@dataclass(frozen=True)
class Span:
    """The indices of one dimension that are wrong: how many, and their runs (start, stop), in order and apart.

    With more than MOST_RUNS of them there is one run, from the first to the last, which holds right ones, too.
    """

    count: int
    runs: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """The first index that is wrong."""
        return self.runs[0][0]

    @property
    def stop(self) -> int:
        """One past the last index that is wrong."""
        return self.runs[-1][1]

    @property
    def indices(self) -> Iterator[int]:
        """Every index of the runs."""
        return (index for start, stop in self.runs for index in range(start, stop))

    def merged(self, other: Span) -> Span:
        """The indices of both."""
        runs: list[tuple[int, int]] = []
        for start, stop in sorted((*self.runs, *other.runs)):
            if runs and start <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(stop, runs[-1][1]))
            else:
                runs.append((start, stop))
        # Runs that were joined hold right indices, too: no more are wrong than both have counted.
        return Span(min(_length(runs), self.count + other.count), _bounded(runs))

    @classmethod
    def of(cls, indices: Sequence[int]) -> Span:
        """The span of indices in ascending order, of which there is one at least."""
        cuts = [at for at, (left, right) in enumerate(pairwise(indices), start=1) if right != left + 1]
        runs = [(indices[a], indices[b - 1] + 1) for a, b in pairwise([0, *cuts, len(indices)])]
        return cls(len(indices), _bounded(runs))


@dataclass(frozen=True)
class Extent:
    """Where the error is, counted in the whole tensor: a span along each dimension. A scalar's has none."""

    spans: tuple[Span, ...]

    def merged(self, other: Extent) -> Extent:
        """The smallest extent with the elements of both."""
        return Extent(tuple(left.merged(right) for left, right in zip(self.spans, other.spans, strict=True)))

    def as_list(self) -> list[Any]:
        """The spans, for JSON."""
        return [[span.count, span.runs] for span in self.spans]

    @classmethod
    def from_list(cls, data: list[Any]) -> Extent:
        """The extent that `as_list` wrote."""
        return cls(tuple(Span(count, tuple((start, stop) for start, stop in runs)) for count, runs in data))


def extent(
    candidate: torch.Tensor,
    reference: torch.Tensor,
    box: Box,
    difference: Difference,
    exact: bool = False,
    floor: float = 0.0,
) -> Extent | None:
    """Where the piece `box` is wrong, or None where `difference`, which was measured of it, is rounding.

    `exact` says that the two should be equal to the bit. `floor` is the relative error that rounding is known to make of the
    tensor. Of a piece that is not finite the extent is where it is not.
    """
    if difference.differing == 0 or not candidate.numel():
        return None
    limit = 0.0 if exact else max(floor, _ROUNDING.get(candidate.dtype, 0.0))
    # What is not finite has a relative error of NaN, which is not below any limit.
    if difference.relative_error <= limit:
        return None
    limit = SIGNIFICANT * difference.max_abs if difference.finite else math.inf
    found = _wrong(candidate.detach(), reference.detach().to(candidate.device), limit)
    if not all(bool(axis.any()) for axis in found):
        return None
    return Extent(tuple(_span(axis, start) for axis, (start, _) in zip(found, box, strict=True)))


def _wrong(candidate: torch.Tensor, reference: torch.Tensor, limit: float) -> list[torch.Tensor]:
    """For each dimension which of its indices hold an element that is wrong, as booleans."""
    shape = candidate.shape
    found = [torch.zeros(size, dtype=torch.bool, device=candidate.device) for size in shape]
    if not shape:
        return found
    rows = max(1, _CHUNK * shape[0] // candidate.numel())
    for start in range(0, shape[0], rows):
        chunk = slice(start, start + rows)
        d = (candidate[chunk].to(torch.float64) - reference[chunk].to(torch.float64)).abs()
        # Written so that NaN is wrong. Infinity is found by the other limit.
        wrong = ~(d <= limit) if math.isfinite(limit) else ~torch.isfinite(d)
        found[0][chunk] = _along(wrong, 0)
        for axis in range(1, len(shape)):
            found[axis] |= _along(wrong, axis)
    return found


def _along(wrong: torch.Tensor, axis: int) -> torch.Tensor:
    return wrong.movedim(axis, 0).flatten(1).any(1) if wrong.dim() > 1 else wrong


def _span(axis: torch.Tensor, start: int) -> Span:
    return Span.of([start + index for index in axis.nonzero().flatten().tolist()])


def _length(runs: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in runs)


def _bounded(runs: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(runs) if len(runs) <= MOST_RUNS else ((runs[0][0], runs[-1][1]),)
