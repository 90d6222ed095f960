"""Pieces: whatever is missing from a tensor is noticed, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy
import pytest

from validation.compare.piece import Box, box_shape, share, slices, uncovered, whole

SEEDS = range(60)


def partition(generator: random.Random, shape: Sequence[int]) -> list[Box]:
    """`shape` cut into boxes along a random dimension, and each half again, until chance says stop."""
    boxes, pending = [], [whole(shape)]
    while pending:
        box = pending.pop()
        axes = [axis for axis, (start, stop) in enumerate(box) if stop - start > 1]
        if not axes or generator.random() < 0.25:
            boxes.append(box)
            continue
        axis = generator.choice(axes)
        start, stop = box[axis]
        cut = generator.randint(start + 1, stop - 1)
        pending += [(*box[:axis], part, *box[axis + 1 :]) for part in ((start, cut), (cut, stop))]
    return boxes


def random_shape(generator: random.Random) -> tuple[int, ...]:
    return tuple(generator.randint(2, 9) for _ in range(generator.randint(1, 4)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_covers_the_whole(seed: int) -> None:
    """Cut anyhow, in any order, some pieces held twice and some once more in larger ones: nothing is missing."""
    generator = random.Random(seed)
    shape = random_shape(generator)
    boxes = partition(generator, shape)
    overlapping = [tuple((max(0, start - 1), stop) for start, stop in box) for box in boxes[:2]]
    boxes += [*boxes[:2], *overlapping]
    generator.shuffle(boxes)
    assert uncovered(boxes, shape) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_piece_taken_away_is_missed(seed: int) -> None:
    """The hole that is named lies in the piece that was taken away, and in no piece that is left."""
    generator = random.Random(seed)
    shape = random_shape(generator)
    boxes = partition(generator, (*shape, 2))
    gone = boxes.pop(generator.randrange(len(boxes)))
    hole = uncovered(boxes, (*shape, 2))
    assert hole is not None
    held = numpy.zeros((*shape, 2), dtype=bool)
    for box in boxes:
        held[slices(box)] = True
    assert held[slices(hole)].size > 0
    assert not held[slices(hole)].any()
    assert all(first <= start and stop <= last for (start, stop), (first, last) in zip(hole, gone, strict=True))


def test_a_scalar_is_covered_by_its_empty_box() -> None:
    """A loss has no dimensions: held once is whole, held by nobody is missing."""
    assert uncovered([()], ()) is None
    assert uncovered([], ()) == ()


def test_nothing_covers_nothing() -> None:
    """Without pieces the whole tensor is the hole."""
    assert uncovered([], (4, 6)) == ((0, 4), (0, 6))


def test_corners_alone_leave_the_rest() -> None:
    """Two opposite quarters reach every row and every column, and still miss half of the tensor."""
    assert uncovered([((0, 2), (0, 3)), ((2, 4), (3, 6))], (4, 6)) in (((0, 2), (3, 6)), ((2, 4), (0, 3)))


@pytest.mark.parametrize(("size", "parts"), [(12, 1), (12, 3), (48, 4)])
def test_shares_follow_each_other(size: int, parts: int) -> None:
    """Part i ends where part i + 1 begins, and the last ends with the whole."""
    edges = [share(size, parts, index) for index in range(parts)]
    assert [edge[0] for edge in edges] == [0, *(edge[1] for edge in edges[:-1])]
    assert edges[-1][1] == size


def test_a_box_is_an_index() -> None:
    """What a box takes from an array has the box's shape and starts where the box does."""
    array, box = numpy.arange(24).reshape(4, 6), ((1, 3), (2, 6))
    assert array[slices(box)].shape == box_shape(box) == (2, 4)
    assert array[slices(box)][0, 0] == 1 * 6 + 2


def test_a_share_is_an_index() -> None:
    """Whole numbers, whatever is divided."""
    assert numpy.arange(6)[slice(*share(6, 3, 1))].tolist() == [2, 3]


def test_a_piece_of_more_dimensions_covers_nothing() -> None:
    """Its first two may well be those of the tensor: it is the piece of another."""
    with pytest.raises(ValueError, match="argument 2 is longer"):
        uncovered([((0, 2), (0, 6), (0, 5)), ((2, 4), (0, 6), (0, 5))], (4, 6))
