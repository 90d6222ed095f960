"""The run itself."""

from __future__ import annotations

from validation.checks.marks import INFERS, TRAINS
from validation.checks.parity import Parity

SECTION = (0, "Run")
MODES = (TRAINS, INFERS)


def test_ranks_finish(parity: Parity) -> None:
    """Every rank runs to its end; if one does not, nothing else can be decided."""
    parity.finished()
