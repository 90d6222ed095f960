"""Several cases, a row each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from validation.case.case import Case
from validation.case.plural import many
from validation.checks.labels import labels
from validation.checks.outcome import PASS, Outcome, of_its_limit, worst
from validation.checks.progress import Progress
from validation.checks.terminal import PLAIN, RED, YELLOW, Terminal

_SELF_TEST = "self-test"
_WORDS = {"fail": "FAIL", "error": "ERROR", "unevaluated": "-"}
"""Of a case with a check of that status, the first that there is; a dash says that nobody knows."""
_COUNTED = {"fail": "fail", "error": "error", "unevaluated": "not evaluated", "known": "known"}
"""Statuses of checks that do not pass, in the words of the last line."""


class Rows:
    """Tells a case by its verdict, how many checks it has, how long its ranks took, and one tensor.

    The tensor is the one that is nearest to its limit, or the first that fails in the flow of data.
    """

    def __init__(self, terminal: Terminal, progress: Progress, cases: Sequence[Case]) -> None:
        self._terminal, self._progress = terminal, progress
        self._names = {case.name: label for case, label in labels(cases).items()}
        self._width = max(map(len, (*self._names.values(), _SELF_TEST)))
        self._outcomes: list[Outcome] = []
        self._told: set[str] = set()
        progress.of(len(cases))

    def begin(self, suite: str, *heading: str) -> None:
        """Of the heading what no row says, once."""
        self._outcomes = []
        for line in heading:
            if not line.startswith("=") and line not in self._told:
                self._told.add(line)
                self._terminal.write(line)

    def ran(self, suite: str) -> None:
        """Nothing yet."""

    def checked(self, outcome: Outcome, undecided: bool) -> None:
        """Keep it. A stack is told once for each case, and a planted defect that was not seen."""
        stack = bool(outcome.shown_details) and not any(one.shown_details for one in self._outcomes)
        if outcome.status != PASS and (stack or outcome.of_self_test):
            self._terminal.check(outcome)
        if not (undecided and outcome.says_nothing):
            self._outcomes.append(outcome)

    def end(self, suite: str, seconds: float) -> None:
        """The row."""
        if not self._outcomes:
            return
        if suite in self._names:
            self._progress.another_done()
        counts = Counter(outcome.status for outcome in self._outcomes)
        word = next((word for status, word in _WORDS.items() if counts[status]), "PASS")
        name = self._names.get(suite, _SELF_TEST)
        row = f"{word:<5}  {name:<{self._width}}  {many(len(self._outcomes), 'check', spec='>5'):<12}  {seconds:>6.1f} s"
        colour = RED if word in ("FAIL", "ERROR") else YELLOW if counts["known"] or counts["unevaluated"] else PLAIN
        self._terminal.write(f"{row}  {self._remark(counts)}".rstrip(), **colour)

    def _remark(self, counts: Counter[str]) -> str:
        counted = [f"{counts[status]} {word}" for status, word in _COUNTED.items() if counts[status]]
        if any(outcome.of_self_test for outcome in self._outcomes):
            return ", ".join([f"{many(counts[PASS], 'planted defect')} seen", *counted])
        unsound = [outcome for outcome in self._outcomes if outcome.status not in (PASS, "known", "unevaluated")]
        found = (
            min(unsound, key=lambda outcome: outcome.place)
            if unsound
            else worst(outcome for outcome in self._outcomes if outcome.status == PASS)
        )
        if found is not None:
            counted.insert(0, f"{'first' if unsound else 'worst'}: {found.title}{of_its_limit(found)}")
        return ", ".join(counted)
