"""What came of one check, as the terminal, the files and the end of a run take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict


@dataclass(frozen=True)
class Outcome:
    """A check's status, the line that reports it, and what stands behind the line.

    `check` is pytest's node id. `details` are lines that belong to the check: a stack, or what its verdict adds.
    """

    status: str
    title: str
    line: str
    section: str = ""
    check: str = ""
    details: str = ""
    verdict: Verdict | None = None

    @classmethod
    def of(cls, report: Any) -> Outcome:
        """From pytest's report of a check, with the verdict that the check left, if it left one."""
        verdict: Verdict | None = report.verdict
        status = verdict.status if verdict else ("pass" if report.passed else "error")
        line = verdict.line if verdict else f"{status.upper()}: {report.title}"
        details = "" if verdict or not report.failed else report.longreprtext
        return cls(status, report.title, line, report.section, report.nodeid, details, verdict)

    @property
    def shown_details(self) -> str:
        """What stands below the line."""
        return self.details or (self.verdict.details if self.verdict else "")
