"""What a run has come to so far: how many checks of each status, the first failure of each case, what broke."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.checks.first import First

if TYPE_CHECKING:
    from validation.checks.outcome import Outcome


class Tally:
    """Counts outcomes.

    `first` has the first failure of each case, by the case's name; `broke` the exit code with which the run behind a testsuite
    broke, if it did; `wrong` says that something is not as it should be, whatever else was lost.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, First] = {}
        self.broke: dict[str, ExitCode] = {}
        self.wrong = False

    def count(self, suite: str, outcome: Outcome, case: Case | None = None) -> None:
        """Take in a check of a testsuite; `case` is what it is about, None for the self-test."""
        status = outcome.status
        self.counts[status] += 1
        if status in ("fail", "error") and case is not None:
            found = First.of(case, outcome.title, outcome.line, outcome.verdict)
            self.first[case.name] = min(self.first.get(case.name, found), found, key=lambda first: first.place)
        self.wrong |= status == "fail" or (status == "error" and suite not in self.broke)

    @property
    def checks(self) -> int:
        """How many there were."""
        return sum(self.counts.values())

    @property
    def undecided_for_no_reason(self) -> bool:
        """Whether checks were not evaluated though nothing failed: then nothing else says that the run is red."""
        return bool(self.counts["unevaluated"]) and not (self.counts["fail"] or self.counts["error"] or self.broke)

    @property
    def exit_code(self) -> ExitCode:
        """The lowest outweighs the others: only what is undecided for want of machines may be tried again."""
        return ExitCode.FAIL if self.wrong else min(self.broke.values(), default=ExitCode.PASS)

    @property
    def word(self) -> str:
        """The verdict on the run."""
        return "PASS" if self.exit_code == ExitCode.PASS else "FAIL" if self.wrong else "ERROR"
