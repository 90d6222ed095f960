"""A rank that needs no megatron-core, in place of validation.run.entry.rank: its case's text says how rank 1 ends."""

from __future__ import annotations

import os
from pathlib import Path

from tests.run import breaking


def rank(case: str, folder: str, reference: str, timeout: float, keep: str, plugin: str = "") -> None:
    """Ends as `case` says, having seen that the reference is there."""
    assert (Path(reference) / "reference.json").read_text() == "{}"
    if os.environ["RANK"] == "1":
        (Path(folder) / "rank-0.pid").touch()  # that rank is on another node, and has its file there
    breaking.rank(folder, case)
