"""What the scorecard runs: a fault in a case, and what the ranks found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from validation.case.case import Case
from validation.faults.fault import Fault

if TYPE_CHECKING:
    from validation.run.result import Result


@dataclass(frozen=True)
class Trial:
    """A fault in one of its layouts; `bug` is the known upstream bug that `case` has beside it, empty for none."""

    fault: Fault
    layout: str
    case: Case
    bug: str = ""


@dataclass(frozen=True)
class Found:
    """What a case's ranks found, and what they found once its known upstream bugs had been taken out: the same without any."""

    result: Result
    without: Result
