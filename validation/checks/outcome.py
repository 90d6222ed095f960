"""What came of one check, as the terminal, the files and the end of a run take it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.checks.counted import OURS
from validation.checks.order import UNPLACED

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict

PASS = "pass"
_SELF_TEST = "self_test"


@dataclass(frozen=True)
class Outcome:
    """A check's status, the line that reports it, and what stands behind the line.

    `component` is what the check is about (validation.checks.titles). `details` are lines that belong to it: a stack, or what
    its verdict adds.
    """

    status: str
    title: str
    line: str
    section: str = ""
    component: str = ""
    details: str = ""
    verdict: Verdict | None = None

    @classmethod
    def of(cls, report: Any) -> Outcome:
        """From pytest's report of a check, with the verdict that the check left, if it left one."""
        verdict: Verdict | None = report.verdict
        status = verdict.status if verdict else ("pass" if report.passed else "error")
        line = verdict.line if verdict else f"{status.upper()}: {report.title}"
        details = "" if verdict or not report.failed else report.longreprtext
        return cls(status, report.title, line, report.section, report.component, details, verdict)

    @property
    def shown_details(self) -> str:
        """What stands below the line."""
        return self.details or (self.verdict.details if self.verdict else "")

    @property
    def says_nothing(self) -> bool:
        """Whether it adds nothing to the check that says how a run broke."""
        return self.verdict is not None and not self.verdict.details

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the flow of data (validation.checks.order)."""
        return self.verdict.place if self.verdict else UNPLACED

    @property
    def ours(self) -> bool:
        """Whether it is no check of a user's own module."""
        return self.component in OURS

    @property
    def of_self_test(self) -> bool:
        """Whether it is about a planted defect."""
        return self.component == _SELF_TEST

    @property
    def ratio(self) -> float | None:
        """The relative error as a share of its limit; None if nothing was compared."""
        said = self.verdict.properties if self.verdict else {}
        if "rel_error" not in said or "tolerance" not in said:
            return None
        error, limit = float(said["rel_error"]), float(said["tolerance"])
        return error / limit if limit else (0.0 if error == 0 else math.inf)


def worst(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The one nearest to its limit, or furthest beyond; None if nothing was compared."""
    compared = [outcome for outcome in outcomes if outcome.ratio is not None]
    return max(compared, key=lambda outcome: math.inf if math.isnan(outcome.ratio or 0) else outcome.ratio or 0, default=None)


def of_its_limit(outcome: Outcome) -> str:
    """`, 0.00012 of its limit`; nothing if it has none, or must be equal."""
    ratio = outcome.ratio
    return "" if ratio is None or not math.isfinite(ratio) else f", {ratio:.2g} of its limit"


def first_failing(title: str, error: float, says: str) -> str:
    """`first failing check Layer 0 Query (relative 1.0e-03)`, for a defect that is put in on purpose.

    Instead of an error that is no number, as of a check of roundings, it has the first of the check's own reasons.
    """
    how = f"relative {error:.1e}" if math.isfinite(error) else says.partition("; ")[0]
    return f"first failing check {title}" + (f" ({how})" if how else "")
