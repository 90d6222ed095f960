"""Measurements: what the ranks report is put together so that the worst of it speaks and nothing counts twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from validation.compare.difference import Difference
from validation.compare.extent import Extent, Span
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.piece import Box

LEFT, RIGHT, WHOLE = ((0, 2),), ((2, 4),), ((0, 4),)


def off_by(size: float, count: int = 2) -> Difference:
    """Every element is off by `size` from ones."""
    nonfinite = 0 if math.isfinite(size) else count
    return Difference(count, count if size else 0, size, (0,), count * size, count * size**2, count, count, nonfinite, 0)


def report(rank: int, box: Box, size: float = 0.0, digest: str = "a") -> PieceReport:
    return PieceReport(rank, box, off_by(size), digest)


def measured(*pieces: PieceReport) -> Measurement:
    return Measurement("probe", (4,), pieces)


def test_the_way_from_a_rank_keeps_everything() -> None:
    """Where a piece is wrong arrives with it; of one that is right nothing is sent."""
    wrong = replace(report(3, LEFT, 0.5), extent=Extent((Span(1, ((1, 2),)),)))
    for sent, entries in ((wrong, 4), (report(3, RIGHT), 3)):
        data = json.loads(json.dumps(sent.as_list()))
        assert len(data) == entries
        assert PieceReport.from_list(3, data) == sent


def test_of_replicas_the_worst_counts_and_each_place_once() -> None:
    """Whichever rank has it."""
    for first, second in ((0.0, 0.5), (0.5, 0.0)):
        found = measured(report(0, LEFT, first), report(1, LEFT, second), report(2, RIGHT, 0.25))
        assert found.difference == off_by(0.5).merged(off_by(0.25))
        assert found.worst.difference.max_abs == 0.5
    assert list(found.by_box) == [LEFT, RIGHT]
    assert [piece.rank for piece in found.by_box[LEFT]] == [0, 1]
    assert found.ranks == (0, 1, 2)


def test_what_is_not_finite_is_worse_than_any_number() -> None:
    """NaN has no order: it must not depend on which piece comes first."""
    for sizes in ((math.nan, 1e100), (1e100, math.nan)):
        found = measured(*(report(rank, LEFT, size) for rank, size in enumerate(sizes)))
        assert math.isnan(found.worst.difference.max_abs)
        assert not found.difference.finite


def test_what_covers_in_part_leaves_the_rest() -> None:
    """The hole is named; two halves have none."""
    assert measured(report(0, LEFT)).missing() == RIGHT
    assert measured(report(0, LEFT), report(1, RIGHT)).missing() is None


def test_pieces_overlap_where_they_hold_more_than_there_is() -> None:
    """Replicas of one place are no overlap; a whole beside its half is one."""
    assert not measured(report(0, LEFT), report(1, LEFT), report(2, RIGHT)).overlaps()
    assert not measured(report(0, WHOLE), report(1, WHOLE)).overlaps()
    assert measured(report(0, WHOLE), report(1, LEFT)).overlaps()
    assert measured(report(0, ((0, 3),)), report(1, ((1, 4),))).overlaps()


def test_replicas_are_told_by_their_bytes() -> None:
    """All copies of the place are returned, and another place with other bytes is none of them."""
    assert measured(report(0, LEFT, digest="a"), report(1, RIGHT, digest="b")).disagreeing() == ()
    for last in (True, False):
        pieces = [report(0, LEFT, digest="a"), report(1, LEFT, digest="a" if last else "b")]
        pieces += [report(2, RIGHT, digest="a"), report(3, RIGHT, digest="b" if last else "a")]
        assert [piece.rank for piece in measured(*pieces).disagreeing()] == ([2, 3] if last else [0, 1])


@pytest.mark.parametrize(
    "other",
    [report(1, LEFT, digest="a"), report(0, RIGHT, digest="a"), report(0, LEFT, digest="b")],
    ids=["rank", "box", "digest"],
)
def test_a_run_repeats_if_each_rank_has_the_same_bytes_at_the_same_place(other: PieceReport) -> None:
    """Whatever they were compared with."""
    first = measured(report(0, LEFT, digest="a"))
    assert first.repeats(measured(report(0, LEFT, 0.5, digest="a")))
    assert not first.repeats(measured(other))
    assert not first.repeats(measured(*first.pieces, report(1, RIGHT)))
