"""Differences: mergeable statistics of candidate minus reference, a few hundred bytes for a tensor of any size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from validation.compare import fused, native
from validation.compare.piece import Box, box_shape
from validation.compare.staging import to_device
from validation.compare.sums import Sums


@dataclass  # not frozen, as Sums
class Difference:
    """What is known of candidate (c) minus reference (r), d = c - r, over `count` elements.

    `max_index` is where |d| is largest, counted in the whole tensor. Non-finite elements are counted on both sides and
    leave the sums NaN or infinite, so that no limit can hold.
    """

    count: int
    differing: int
    max_abs: float
    max_index: tuple[int, ...]
    sum_abs: float
    sum_squares: float
    reference_squares: float
    cross: float
    nonfinite_candidate: int
    nonfinite_reference: int

    @property
    def average(self) -> float:
        """Mean |d|."""
        return self.sum_abs / self.count if self.count else math.nan

    @property
    def relative_error(self) -> float:
        """Relative Frobenius error, ||d|| / ||r||. Zero over zero is zero; anything else over zero is infinite."""
        if self.reference_squares == 0:
            return 0.0 if self.sum_squares == 0 else math.inf
        return math.sqrt(self.sum_squares / self.reference_squares) if self.sum_squares >= 0 else math.nan

    @property
    def projection(self) -> float:
        """The coefficient a = <c, r> / <r, r>: 1 where right, 2, tp or 1/dp where a reduction is doubled or missing."""
        return self.cross / self.reference_squares if self.reference_squares else math.nan

    @property
    def finite(self) -> bool:
        """Whether both sides are finite everywhere."""
        return self.nonfinite_candidate == 0 and self.nonfinite_reference == 0

    def merged(self, other: Difference) -> Difference:
        """The difference over the elements of both, which must not overlap."""
        worst = max(self, other, key=lambda part: (math.isnan(part.max_abs), part.max_abs))
        return Difference(
            count=self.count + other.count,
            differing=self.differing + other.differing,
            max_abs=worst.max_abs,
            max_index=worst.max_index,
            sum_abs=self.sum_abs + other.sum_abs,
            sum_squares=self.sum_squares + other.sum_squares,
            reference_squares=self.reference_squares + other.reference_squares,
            cross=self.cross + other.cross,
            nonfinite_candidate=self.nonfinite_candidate + other.nonfinite_candidate,
            nonfinite_reference=self.nonfinite_reference + other.nonfinite_reference,
        )

    def as_list(self) -> list[Any]:
        """The statistics in their order, for JSON: a rank reports a thousand."""
        return list(vars(self).values())

    @classmethod
    def from_list(cls, data: list[Any]) -> Difference:
        """The difference that `as_list` wrote."""
        count, differing, max_abs, max_index, *sums = data
        return cls(count, differing, max_abs, tuple(max_index), *sums)


_CHUNK = 1 << 16
"""Elements that NumPy measures at a time: its float64 working copies stay in the second cache."""
_CHUNK_ON_DEVICE = 1 << 24
"""The same where a device measures and has no compiled pass: 128 MiB a working copy."""


def measure(candidate: torch.Tensor, reference: torch.Tensor, box: Box) -> Difference:
    """The difference of one piece; `box` is its place in the whole tensor.

    Both tensors must have the box's shape. Booleans and integers are compared as numbers. All sums are in float64, in one
    pass where there is a compiled one (validation.compare.native and .fused, which state their errors).
    """
    left = candidate.detach().contiguous()
    return measured(left, to_device(reference.detach(), candidate.device).contiguous(), box)


def measured(left: torch.Tensor, right: torch.Tensor, box: Box) -> Difference:
    """The same of contiguous tensors on one device that autograd does not follow. Raises ValueError for another shape."""
    shape = box_shape(box)
    if left.shape != shape or right.shape != shape:
        raise ValueError(f"piece {box}: shapes are {tuple(left.shape)} and {tuple(right.shape)}, declared is {shape}")
    if left.is_cuda:
        left, right = left.view(-1), right.view(-1)
    return _in_one_pass(left, right, box) or in_chunks(left.view(-1), right.view(-1), box)


def _in_one_pass(candidate: torch.Tensor, reference: torch.Tensor, box: Box) -> Difference | None:
    """None where there is no compiled pass for these, or where it has met what is not finite."""
    if candidate.is_cuda:
        parts = fused.sums(candidate, reference) if fused.covers(candidate, reference) else []
    else:
        parts = native.sums(candidate, reference) if native.covers(candidate, reference) else []
    if not parts or not all(map(math.isfinite, itertools.chain.from_iterable(part.totals for part in parts))):
        return None
    return _of_parts(parts, candidate.numel(), box)


def measured_later(candidate: torch.Tensor, reference: torch.Tensor, box: Box) -> Callable[[], Difference]:
    """The same as `measure`, which a GPU may still be taking: the host waits when it asks.

    Then neither tensor is held. What is not finite leaves the sums so, and is not counted.
    """
    left, right = candidate.detach().reshape(-1), reference.detach().reshape(-1)
    if not (left.is_cuda and left.numel() and fused.covers(left, right)):
        found = measure(candidate, reference, box)
        return lambda: found
    row, count = fused.asked(left, right), left.numel()
    return lambda: _of_parts([fused.answered(row)], count, box)


def of_part(part: Sums, count: int, box: Box) -> Difference:
    """What one pass over all `count` elements of the piece `box` has found."""
    return _of_parts([part], count, box)


def _of_parts(parts: Sequence[Sums], count: int, box: Box) -> Difference:
    if len(parts) == 1:  # a thousand small pieces of a rank
        worst, totals, differing = parts[0], list(parts[0].totals), parts[0].differing
    else:
        worst = max(parts, key=lambda part: part.largest)
        totals = [math.fsum(column) for column in zip(*(part.totals for part in parts), strict=True)]
        differing = sum(part.differing for part in parts)
    absolute, squares, reference_squares, cross = totals
    place = _global_index(worst.place, box)
    return Difference(count, differing, worst.largest, place, absolute, squares, reference_squares, cross, 0, 0)


def in_chunks(candidate: torch.Tensor, reference: torch.Tensor, box: Box) -> Difference:
    """The same of two flat tensors by NumPy on the CPU and by torch on a device, in as many passes as there are statistics."""
    size = _CHUNK_ON_DEVICE if candidate.is_cuda else _CHUNK
    # What is not finite is counted and reported; NumPy need not warn of it, too.
    with numpy.errstate(invalid="ignore", over="ignore"):
        parts = [
            _measure_flat(candidate[start : start + size], reference[start : start + size], start, box)
            for start in range(0, max(candidate.numel(), 1), size)
        ]
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    return total


def _measure_flat(candidate: torch.Tensor, reference: torch.Tensor, offset: int, box: Box) -> Difference:
    c, r = _array(candidate), _array(reference)
    d = c - r
    magnitude = abs(d)
    # argmax() of an array that holds NaN is the place of the NaN: what is wrong is then also what is shown.
    place = int(magnitude.argmax()) if len(d) else 0
    squares, cross, reference_squares = float(d.dot(d)), float(c.dot(r)), float(r.dot(r))
    finite = math.isfinite(squares + cross + reference_squares)
    return Difference(
        count=len(d),
        differing=int((d != 0).sum()),
        max_abs=float(magnitude[place]) if len(d) else 0.0,
        max_index=_global_index(offset + place, box),
        sum_abs=float(magnitude.sum()),
        sum_squares=squares,
        reference_squares=reference_squares,
        cross=cross,
        nonfinite_candidate=0 if finite else _nonfinite(c),
        nonfinite_reference=0 if finite else _nonfinite(r),
    )


def _array(flat: torch.Tensor) -> Any:
    """The elements in float64, where they are; on the CPU as NumPy's array, whose calls cost a third of torch's.

    Only what both kinds of array have is asked of it.
    """
    double = flat.to(torch.float64)
    return double.numpy() if double.device.type == "cpu" else double


def _nonfinite(array: Any) -> int:
    """How many elements are NaN or infinite: of these alone the difference with themselves is not zero."""
    return int((array - array != 0).sum())


def _global_index(flat: int, box: Box) -> tuple[int, ...]:
    index: list[int] = []
    for start, stop in reversed(box):
        if start == stop:  # there is no element
            return tuple(start for start, _ in box)
        flat, within = divmod(flat, stop - start)
        index.append(start + within)
    index.reverse()
    return tuple(index)
