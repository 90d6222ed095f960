"""A case with a known upstream bug that is run once more as it is: whether what the bug excuses comes out the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from validation.compare.measurement import Measurement

CHANGED = "not repeatable: run again, other bytes come out (a race, or something random)"


def changed(first: Measurement, second: Measurement, limit: float) -> bool:
    """Whether two runs of a tensor differ by more than both may by rounding: relatively `limit` each.

    Ranks return no tensors. Two that are as far from the reference in the same direction are taken for equal: piece by piece
    the lengths of both differences, and their projections on the reference.
    """
    if first.repeats(second):
        return False
    errors = [run.difference.relative_error if run.pieces else math.inf for run in (first, second)]
    squares, most = first.difference.reference_squares, 2 * limit * (1 + max(errors))
    pieces = {(piece.rank, piece.box): piece.difference for piece in second.pieces}
    if most == math.inf or pieces.keys() != {(piece.rank, piece.box) for piece in first.pieces}:
        return True
    for piece in first.pieces:
        here, there = piece.difference, pieces[piece.rank, piece.box]
        longer = abs(math.sqrt(here.sum_squares) - math.sqrt(there.sum_squares))
        if not (longer <= most * math.sqrt(squares) and abs(here.cross - there.cross) <= most * squares):
            return True
    return False
