"""Which positions a rank holds: every position has one place, and zigzag is what the field means by it."""

from __future__ import annotations

import itertools

import pytest

from validation.candidate.sequence import positions, ranges

SPLITS = [
    (length, cp, parts)
    for length, cp, parts in itertools.product((24, 48, 96), (1, 2, 3, 4), (1, 2, 4))
    if length % (2 * cp) == 0 and length % (cp * parts) == 0
]


@pytest.mark.parametrize(("length", "cp", "parts"), SPLITS)
def test_every_position_is_held_exactly_once(length: int, cp: int, parts: int) -> None:
    """Over all context-parallel and sequence-parallel ranks: nothing twice, nothing missing."""
    runs = [run for rank in range(cp) for part in range(parts) for run in ranges(length, cp, rank, parts, part)]
    held = [position for start, stop in runs for position in range(start, stop)]
    assert sorted(held) == list(range(length))


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_sequence_parallel_ranks_share_what_their_context_parallel_rank_holds(rank: int) -> None:
    """In order: one part after the other is the whole."""
    parts = [position for part in range(4) for start, stop in ranges(48, 4, rank, 4, part) for position in range(start, stop)]
    assert parts == positions(48, 4, rank)


def test_zigzag_gives_each_rank_an_early_and_a_late_chunk() -> None:
    """Two ranks, 8 positions: the first has both ends, the second the middle."""
    assert ranges(8, 2, 0) == [(0, 2), (6, 8)]
    assert ranges(8, 2, 1) == [(2, 4), (4, 6)]
    assert positions(8, 2, 0) == [0, 1, 6, 7]


def test_each_packed_document_is_cut_by_itself() -> None:
    """Two ranks, a document of 8 and one of 4: each rank has both ends of one half, or the middle."""
    assert ranges(12, 2, 0, ends=(8, 12)) == [(0, 2), (6, 8), (8, 9), (11, 12)]
    assert positions(12, 2, 1, ends=(8, 12)) == [2, 3, 4, 5, 9, 10]
    assert [ranges(12, 2, 0, 3, part, (8, 12)) for part in range(3)] == [[(0, 2)], [(6, 8)], [(8, 9), (11, 12)]]


def test_sequence_parallelism_cuts_what_zigzag_left() -> None:
    """Of rank 0's two chunks each of two sequence-parallel ranks has one."""
    assert [ranges(8, 2, 0, 2, part) for part in (0, 1)] == [[(0, 2)], [(6, 8)]]


def test_a_part_may_span_two_chunks() -> None:
    """Three parts of two chunks: the middle one has the end of the first and the start of the second."""
    assert ranges(24, 2, 0, 3, 1) == [(4, 6), (18, 20)]


def test_without_parallelism_a_rank_holds_everything() -> None:
    """One run, from start to end."""
    assert ranges(48, 1, 0) == [(0, 48)]
