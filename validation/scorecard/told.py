"""What the diagnoses of the catalogue come to, while they are made and at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from validation.case.errors import ExitCode
from validation.case.plural import many
from validation.scorecard.diagnoses import RIGHT, SILENT, UNSURE, WRONG, Diagnosed
from validation.scorecard.diagnoses_page import Measured, load, save
from validation.scorecard.layouts import COUNT
from validation.scorecard.page import write
from validation.scorecard.rows import diagnosed

ENOUGH = 0.9
"""The part of diagnoses that must name what the fault is."""


def tell(faults: Iterable[Diagnosed], count: int, machine: str, partly: bool = False) -> ExitCode:
    """Say all of them as they come, and write the pages if `machine` says what they ran on; the exit code.

    `partly` keeps what the pages say of all other faults.
    """
    start, found = time.monotonic(), []
    _say(f"===== diagnoses: {many(count, 'fault')}, each in {COUNT} cases =====")
    for number, one in enumerate(faults, start=1):
        found.append(one)
        _say(f"{number}/{count}, {time.monotonic() - start:.0f} s: {line(one)}")
    code = ExitCode.PASS if enough(found) else ExitCode.FAIL
    _say(f"===== Diagnoses: {code.name} ({counted(found)}, {time.monotonic() - start:.0f} s) =====")
    if machine:
        measured = Measured(machine, tuple(found))
        save(diagnosed(load(), measured) if partly else measured)
        write()
    return code


def line(one: Diagnosed) -> str:
    """A fault and its diagnosis."""
    said = f"{one.sentence}." if one.sentence else "no check fails."
    return f"{one.fault} ({one.cause}) {one.status}: {said}" + (f" {one.deciding}." if one.deciding else "")


def counted(found: Sequence[Diagnosed]) -> str:
    """`100 right of 110`, and the rest."""
    by = Counter(one.status for one in found)
    rest = ", ".join(f"{by[status]} {status}" for status in (UNSURE, WRONG, SILENT) if by[status])
    return f"{by[RIGHT]} of {len(found)} right" + (f", {rest}" if rest else "")


def enough(found: Sequence[Diagnosed]) -> bool:
    """Whether nine of ten faults that show are named, and none that is another is named for certain."""
    shown = [one for one in found if one.status != SILENT]
    return sum(one.status == RIGHT for one in shown) >= ENOUGH * len(shown) and all(one.status != WRONG for one in shown)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
