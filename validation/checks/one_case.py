"""One case in about thirty lines: the tensors that a reader asks for first, and one line for each kind of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from validation.case.case import Case
from validation.case.plural import many
from validation.case.probes import observed
from validation.checks.outcome import PASS, Outcome, worst
from validation.checks.terminal import COLOURS, RED, Terminal

_SHOWN = frozenset(
    (
        *("attention.output", "mlp.output", "moe.output", "moe.router.experts", "indexer.keys"),
        *("final_norm", "logits", "token_loss", "loss", "mtp.logits", "mtp.loss"),
    )
)
"""The kinds of probes whose forward tensor has a line of its own."""
_SUMMED = ("Weights", "Probe Gradients", "Gradients", "Optimizer Steps")
"""The sections that are one line each."""
_FORWARD = "Other Tensors of the Forward Pass"
_MOST = {"known": 3}
_MOST_FAILING = 10
"""Lines of checks of one status that do not pass, beside those that have a line anyway; the others are counted."""
_BEHIND = {
    "known": "show known upstream bugs",
    "fail": "fail behind these",
    "error": "are not decided",
    "unevaluated": "are not evaluated",
}


class OneCase:
    """Tells the checks of a case when all have been made, the first failures in the flow of data before those behind them."""

    def __init__(self, terminal: Terminal, case: Case) -> None:
        self._terminal, self._case = terminal, case
        self._titles = {probe.title for probe in observed(case).values() if probe.kind in _SHOWN}
        self._outcomes: list[Outcome] = []

    def begin(self, suite: str, *heading: str) -> None:
        """The heading."""
        self._outcomes = []
        for line in heading:
            self._terminal.write(line)

    def ran(self, suite: str) -> None:
        """Nothing: there is more to say when the checks have been made."""

    def checked(self, outcome: Outcome, undecided: bool) -> None:
        """Keep it; of a run that broke the one check that says how."""
        if not (undecided and outcome.says_nothing):
            self._outcomes.append(outcome)

    def end(self, suite: str, seconds: float) -> None:
        """All lines."""
        own = {id(outcome) for outcome in self._outcomes if suite != self._case.name or self._has_a_line(outcome)}
        others = [outcome for outcome in self._outcomes if id(outcome) not in own]
        unsound = sorted((outcome for outcome in others if outcome.status != PASS), key=lambda outcome: outcome.place)
        shown = own | {id(outcome) for outcome in _first_of_each_status(unsound)}
        self._tell(outcome for outcome in self._outcomes if id(outcome) in shown)
        self._count_hidden(outcome for outcome in unsound if id(outcome) not in shown)
        self._sum_up(outcome for outcome in others if outcome.status == PASS)

    def _has_a_line(self, outcome: Outcome) -> bool:
        if not outcome.ours or outcome.section == "Run":
            return True
        return outcome.title in self._titles and outcome.section not in _SUMMED

    def _tell(self, outcomes: Iterable[Outcome]) -> None:
        section = ""
        for outcome in outcomes:
            if outcome.section != section:
                section = outcome.section
                self._terminal.write(f"--- {section} ---")
            self._terminal.check(outcome)

    def _count_hidden(self, outcomes: Iterable[Outcome]) -> None:
        for status, count in Counter(outcome.status for outcome in outcomes).items():
            words = _BEHIND.get(status, f"are {status}")
            self._terminal.write(f"... and {count} more {words}; -v shows all", **COLOURS.get(status, RED))

    def _sum_up(self, outcomes: Iterable[Outcome]) -> None:
        groups: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            groups.setdefault(outcome.section if outcome.section in _SUMMED else _FORWARD, []).append(outcome)
        if groups:
            self._terminal.write("--- Everything Else ---")
        for group, found in _in_order(groups):
            self._terminal.write(_summed(group, found))


def _first_of_each_status(unsound: Iterable[Outcome]) -> Iterable[Outcome]:
    counts: Counter[str] = Counter()
    for outcome in unsound:
        counts[outcome.status] += 1
        if counts[outcome.status] <= _MOST.get(outcome.status, _MOST_FAILING):
            yield outcome


def _in_order(groups: Mapping[str, list[Outcome]]) -> Iterable[tuple[str, list[Outcome]]]:
    """The forward pass first."""
    return sorted(groups.items(), key=lambda item: item[0] != _FORWARD)


def _summed(group: str, outcomes: list[Outcome]) -> str:
    """One line of checks that pass, with the numbers of the one that is nearest to its limit."""
    counted = f"PASS: {group}, {many(len(outcomes), 'check')}"
    found = worst(outcomes)
    if found is None or found.verdict is None:
        return counted
    return f"{counted} - {found.verdict.numbers}, worst at {found.title}"
