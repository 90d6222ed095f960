"""What docs/scorecard.md says of any lane: totals by group, what is missed or seen elsewhere, and false alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from validation.case.plural import many
from validation.faults import catalogue
from validation.faults.fault import GROUPS
from validation.scorecard.judge import SEEN, Outcome
from validation.scorecard.measured import Measured
from validation.scorecard.peers import RULES

Column = Callable[[Outcome], bool]
_NAMED = 5
"""Of how many cases at most the names are listed."""


def row(cells: Iterable[Any]) -> str:
    """A line of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def totals(measured: Measured, more: Mapping[str, Column] | None = None) -> str:
    """How many faults of each group were caught, localised, `more`, and seen by each of the peers' rules."""
    columns: dict[str, Column] = {
        "caught": lambda one: one.caught,
        "localised": lambda one: one.status == SEEN,
        **(more or {}),
        **{rule.name: lambda one, name=rule.name: bool(one.peers.get(name)) for rule in RULES},  # type: ignore[misc]
    }

    def of(name: str, found: Sequence[Outcome]) -> str:
        return row([name, len(found), *(sum(map(column, found)) for column in columns.values())])

    by_group = {group: [one for one in measured.outcomes if catalogue.find(one.fault).group == group] for group in GROUPS}
    head = row(["group", "faults", *columns]) + row(["---"] * (len(columns) + 2))
    return head + "".join(of(*pair) for pair in by_group.items() if pair[1]) + of("**all**", measured.outcomes)


def misses(outcomes: Iterable[Outcome]) -> str:
    """A line for each that is missed, with the reason, and for each that another check sees first."""
    lines = []
    for one in outcomes:
        fault = catalogue.find(one.fault)
        if not one.caught:
            lines.append(f"- {one.fault}, {one.status}: {fault.does}. {fault.unseen or one.says or 'Not explained.'}\n")
        elif one.status != SEEN:
            lines.append(f"- {one.fault}, first seen at {one.first} and not at {one.expected}: {fault.does}.\n")
    return "".join(lines)


def alarms(measured: Measured) -> str:
    """How many cases without a fault fail, by the checks and by each of the peers' rules that has any."""
    ours = sum(bool(clean.failing or clean.says) for clean in measured.clean)
    checks = sum(clean.checks for clean in measured.clean)
    found = [f"Of {many(len(measured.clean), 'case')} without a fault ({many(checks, 'check')}) the checks fail {ours}.\n"]
    for rule in RULES:
        cases = [clean.case for clean in measured.clean if clean.peers.get(rule.name)]
        names = list(dict.fromkeys(cases))
        named = f" ({', '.join(names)})" if len(names) <= _NAMED else ""
        if cases:
            found.append(f"- {rule.name} fails {len(cases)}{named}.\n")
    return found[0] + ("\n" if found[1:] else "") + "".join(found[1:])
