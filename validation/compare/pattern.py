"""Patterns: what the shape of an error says of its cause. Sentences for the reader, from numbers alone; no torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

from validation.case.axes import Axis, Region
from validation.compare.difference import Difference
from validation.compare.extent import SIGNIFICANT, Extent, Span
from validation.compare.measurement import Measurement, PieceReport

WORST = 3
"""Places that a line names; the others are counted."""
_ENOUGH = 0.25
"""The part of a region that must be wrong for it to be the region that is: one element is always in one of them."""
_RESIDUAL = 1e-9
"""What may be left of an error, squared and relative, where it is called a constant factor."""


@dataclass(frozen=True)
class Surroundings:
    """What is known of a tensor and its case.

    `axes` are the tensor's, `places` each rank's coordinates, `factors` numbers that a wrong sum or scale brings in, by name,
    and `noise` is the relative error that passes.
    """

    axes: tuple[Axis, ...] = ()
    places: Sequence[Mapping[str, int]] = ()
    factors: Mapping[str, float] = field(default_factory=dict)
    noise: float = 0.0


def whereabouts(measurement: Measurement) -> str:
    """The ranks and index ranges of the worst pieces: `wrong: ranks 0-1 [2:4, 0:48, 16:48]`; empty where unknown.

    What a rank has of several pieces is said at once.
    """
    held = _by_rank(_significant(measurement))
    ranges: dict[tuple[str, ...], list[int]] = {}
    for rank, pieces in held.items():
        ranges.setdefault(tuple(map(_indices, _joined(pieces).spans)), []).append(rank)
    said = [_ranks(ranks) + (f" [{', '.join(spans)}]" if spans else "") for spans, ranks in ranges.items()]
    if not said:
        return ""
    more = f" and {len(said) - WORST} more" if len(said) > WORST else ""
    return f"wrong: {', '.join(said[:WORST])}{more}"


def hints(measurement: Measurement, known: Surroundings) -> tuple[str, ...]:
    """The known shapes that the error has, each as a few words; none where it has none."""
    wrong = _significant(measurement)
    if not wrong:
        return ()
    return tuple(
        filter(None, (*_factor(measurement, wrong, known), _copies(measurement, known), *_where(measurement, wrong, known)))
    )


def _where(measurement: Measurement, wrong: list[PieceReport], known: Surroundings) -> Iterator[str]:
    yield _of_ranks(measurement, known)
    spans = _joined(wrong).spans
    if spans and measurement.difference.count > 1 and all(span.count == 1 for span in spans):
        yield "one element only"
        return
    for span, axis in zip(spans, known.axes, strict=False):
        yield _of_members(span, axis)
        yield from (f"{region.title} only" for region in axis.regions if _within(span, region))


def _significant(measurement: Measurement) -> list[PieceReport]:
    """The pieces with an error that is not small against the largest, the worst first."""
    found = [piece for piece in measurement.pieces if piece.extent is not None]
    largest = max((piece.difference.max_abs for piece in found if piece.difference.finite), default=0.0)
    found = [piece for piece in found if not piece.difference.max_abs <= SIGNIFICANT * largest]
    return sorted(found, key=lambda piece: -piece.difference.max_abs if piece.difference.finite else -math.inf)


def _factor(measurement: Measurement, wrong: list[PieceReport], known: Surroundings) -> Iterator[str]:
    """A constant factor of all that is wrong, with the numbers of the case that it is."""
    total = reduce(Difference.merged, (piece.difference for piece in _distinct(wrong)))
    constant = factor(total, known.noise)
    if constant is None:
        return
    meaning = meaning_of(constant, known.factors, known.noise)
    if total.count == 1 and not meaning:
        return  # every number is some constant times another
    where = "everywhere" if len(wrong) == len(measurement.pieces) else "in every wrong piece"
    yield f"{as_said(constant)} times the reference {where}" + (f" ({meaning})" if meaning else "")


def as_said(constant: float) -> str:
    """`1.001`; `1+9e-10` of one that six digits would make 1, which is no factor for a reader."""
    said = f"{constant:.6g}"
    return f"1{constant - 1:+.1g}" if said == "1" and constant != 1 else said


def factor(difference: Difference, noise: float) -> float | None:
    """The constant a with c = a r, or None where no constant leaves as little of the error as rounding would.

    With the best a, <c,r>/<r,r>, what is left of d = c - r is <d,d> - (<c,r> - <r,r>)^2/<r,r>.
    """
    squares, error = difference.reference_squares, difference.sum_squares
    if not (difference.finite and squares > 0 and error > 0):
        return None
    excess = difference.cross - squares
    left = error - excess * excess / squares
    if not math.isfinite(left):
        return None  # what stands in freed memory may be any number
    allowed = max(_RESIDUAL * error, min(noise**2 * squares, 1e-2 * error))
    return difference.projection if left <= allowed else None


def meaning_of(constant: float, factors: Mapping[str, float], noise: float) -> str:
    """What a constant is where it is near a number of the case or its inverse; else empty."""

    def near(number: float) -> bool:
        return math.isclose(constant, number, rel_tol=max(1e-6, noise))

    if abs(constant) <= max(1e-12, noise):
        return "never computed"
    if near(-1):
        return "the sign is wrong"
    times = [name for name, number in factors.items() if near(number)]
    parts = [f"1/{name}" for name, number in factors.items() if near(1 / number)]
    if times:
        return f"{' or '.join(times)}: summed or multiplied once too often"
    if parts:
        return f"{' or '.join(parts)}: a sum or a factor is missing, or divided once too often"
    return ""


def _copies(measurement: Measurement, known: Surroundings) -> str:
    """Replicas that differ and whose sum, or mean, has the reference's projection on itself: a reduction is missing."""
    replicas = measurement.disagreeing()
    if not replicas or not all(piece.extent and piece.difference.finite for piece in replicas):
        return ""
    # Copies of one summand, which data-parallel ranks may hold, count once.
    values = {piece.digest: piece.difference.projection for piece in replicas}
    total, count, rounding = sum(values.values()), len(values), max(_RESIDUAL, known.noise)
    if all(abs(value - 1) <= 10 * rounding for value in values.values()):
        return ""  # copies that are each nearly right have the reference as their mean, too
    for result, word in ((1, "sum"), (count, "mean")):
        if math.isclose(total, result, rel_tol=rounding):
            ranks = _ranks([piece.rank for piece in replicas])
            return f"the copies on {ranks} have the reference as their {word}: a reduction over them is missing"
    return ""


def _of_ranks(measurement: Measurement, known: Surroundings) -> str:
    """The ranks that are wrong, where others that hold a part of the tensor are right."""
    wrong = sorted({piece.rank for piece in measurement.pieces if piece.extent is not None})
    right = sorted(set(measurement.ranks) - set(wrong))
    if not right:
        return ""
    common = _coordinates(wrong, right, known.places)
    if len(wrong) > 1 and not common:
        return ""
    told = ", ".join(f"{word} {index}" for word, index in common.items())
    return f"{_ranks(wrong)} only" + (f" ({told})" if told else "")


def _coordinates(wrong: Sequence[int], right: Sequence[int], places: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The coordinates that all of `wrong` share; all of them, or none, tell it from every rank of `right`."""
    if max((*wrong, *right)) >= len(places):
        return {}
    others = [places[rank] for rank in right]
    shared = set.intersection(*(set(places[rank].items()) for rank in wrong))
    telling = {
        word: index
        for word, index in places[wrong[0]].items()
        if (word, index) in shared and any(other[word] != index for other in others)
    }
    apart = all(any(other[word] != index for word, index in telling.items()) for other in others)
    return telling if apart else {}


def _of_members(span: Span, axis: Axis) -> str:
    """The heads, experts or positions that are wrong, where others are right."""
    if not axis.members:
        return ""
    total = axis.size // axis.each
    if axis.order:
        return _of_run(span, axis.members, total)
    found = Counter(index // axis.each for index in span.indices)
    few = len(found) == 1 or len(found) <= min(WORST, total / 4)
    # One run that stands for many says which are right no more.
    if total == 1 or not few or found.total() != span.count or min(found.values()) < _ENOUGH * axis.each:
        return ""
    plural = "s" if len(found) > 1 else ""
    return f"{axis.members}{plural} {', '.join(map(str, sorted(found)))} only"


def _of_run(span: Span, members: str, total: int) -> str:
    if (span.start, span.stop) == (1, total) and span.count == total - 1 > 1 and members == "position":
        return "every position but the first, which sees only itself: what mixes positions"
    if span.count == total or span.count != span.stop - span.start:
        return ""
    return f"{members} {span.start} only" if span.count == 1 else f"{members}s {span.start}:{span.stop} only"


def _within(span: Span, region: Region) -> bool:
    """Whether nothing else is wrong, and of the region so much that it is no accident."""
    periods = {index // region.period for index in span.indices}
    enough = _ENOUGH * (region.stop - region.start) * len(periods)
    return span.count >= enough and all(map(region.holds, span.indices))


def _distinct(pieces: Iterable[PieceReport]) -> list[PieceReport]:
    """One piece of each place, the first."""
    return list({piece.box: piece for piece in reversed(list(pieces))}.values())


def _by_rank(pieces: Iterable[PieceReport]) -> dict[int, list[PieceReport]]:
    found: dict[int, list[PieceReport]] = {}
    for piece in pieces:
        found.setdefault(piece.rank, []).append(piece)
    return found


def _joined(pieces: Iterable[PieceReport]) -> Extent:
    """The extent of several pieces, which all have one."""
    return reduce(Extent.merged, (piece.extent for piece in pieces if piece.extent is not None))


def _indices(span: Span) -> str:
    """`16:48`, `5` for one, `12 in 0:48` for some that are scattered."""
    if span.count == 1:
        return str(span.start)
    around = f"{span.start}:{span.stop}"
    return around if span.count == span.stop - span.start else f"{span.count} in {around}"


def _ranks(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 0-3`, `ranks 0, 2`."""
    ordered = sorted(ranks)
    runs = Span.of(ordered).runs
    said = ", ".join(str(start) if stop - start == 1 else f"{start}-{stop - 1}" for start, stop in runs)
    return f"rank{'s' if len(ordered) > 1 else ''} {said}"
