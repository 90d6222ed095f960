"""Measurements: what the ranks of one case report about one tensor, put together."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from validation.compare.difference import Difference
from validation.compare.extent import Extent
from validation.compare.piece import Box, box_shape, uncovered


@dataclass  # not frozen, as Sums
class PieceReport:
    """One piece as its rank reports it.

    `digest` stands for the candidate's bytes; `extent` is where the piece is wrong, None where it is not.
    """

    rank: int
    box: Box
    difference: Difference
    digest: str
    extent: Extent | None = None

    def as_list(self) -> list[Any]:
        """The report for JSON; the rank is known from the file."""
        return [self.box, self.difference.as_list(), self.digest, *([self.extent.as_list()] if self.extent else [])]

    @classmethod
    def from_list(cls, rank: int, data: list[Any]) -> PieceReport:
        """The report that `as_list` wrote."""
        box, difference, digest, *extent = data
        place = tuple((start, stop) for start, stop in box)
        wrong = Extent.from_list(extent[0]) if extent else None
        return cls(rank, place, Difference.from_list(difference), digest, wrong)


@dataclass(frozen=True)
class Measurement:
    """All pieces of one tensor whose declared shape is `shape`."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[PieceReport, ...]

    @cached_property
    def by_box(self) -> dict[Box, list[PieceReport]]:
        """Pieces at the same place: more than one are replicas."""
        found: dict[Box, list[PieceReport]] = defaultdict(list)
        for piece in self.pieces:
            found[piece.box].append(piece)
        return dict(found)

    @cached_property
    def difference(self) -> Difference:
        """The difference of the whole, counting each place once, with its worst replica."""
        distinct = [max(replicas, key=_badness).difference for replicas in self.by_box.values()]
        total = distinct[0]
        for difference in distinct[1:]:
            total = total.merged(difference)
        return total

    @cached_property
    def worst(self) -> PieceReport:
        """The piece with the largest difference, or the first that is not finite."""
        return max(self.pieces, key=_badness)

    def repeats(self, other: Measurement) -> bool:
        """Whether two runs of a case have the same bytes everywhere, whatever they were compared with."""
        bytes_of = [{(piece.rank, piece.box, piece.digest) for piece in run.pieces} for run in (self, other)]
        return bytes_of[0] == bytes_of[1]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that hold a piece."""
        return tuple(sorted({piece.rank for piece in self.pieces}))

    def missing(self) -> Box | None:
        """A part of the tensor that no rank reported, or None."""
        return uncovered(self.by_box, self.shape)

    def overlaps(self) -> bool:
        """Whether pieces at different places share elements; only asked where they cover the whole."""
        return sum(math.prod(box_shape(box)) for box in self.by_box) > math.prod(self.shape)

    def disagreeing(self) -> Sequence[PieceReport]:
        """Replicas of one place whose bytes are not all the same; empty where every replica agrees."""
        for replicas in self.by_box.values():
            if len({replica.digest for replica in replicas}) > 1:
                return replicas
        return ()


def _badness(piece: PieceReport) -> tuple[bool, float]:
    return not piece.difference.finite, piece.difference.max_abs
