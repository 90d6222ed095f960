"""A rank that needs no megatron-core, in place of validation.run.entry.rank: its case's text says how rank 1 ends."""

from __future__ import annotations

import os
from pathlib import Path

from tests.run import breaking
from validation.run.report import RankReport


def rank(case: str, folder: str, reference: str, timeout: float, keep: str, plugin: str = "") -> None:
    """Ends as `case` says, having seen that the reference is there. Rank 0 is on another node, and waits for rank 1."""
    assert (Path(reference) / "reference.json").read_text() == "{}"
    os.environ[breaking.FOLDER] = folder
    report = RankReport(Path(folder), int(os.environ["RANK"]))
    with report.last_words():
        report.progress("start of the work")
        if report.rank == 1:
            report.progress("the hard part")
            breaking.ENDS[case]()
        elif case != "finishes":
            report.progress("waiting for rank 1")
            breaking.sleep_forever()
        report.write({"rank": report.rank, "pid": os.getpid()})
