"""What docs/scorecard.md says of the catalogue in a lane of its own: a section, and a cell for each fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from validation.faults import catalogue
from validation.faults.fault import GROUPS
from validation.scorecard.judge import SEEN, Outcome
from validation.scorecard.lane import Lane
from validation.scorecard.measured import Measured
from validation.scorecard.peers import RULES
from validation.scorecard.report import hidden

_HEAD = """## On a GPU, with {implementation} in {precision}

The same faults in cases of implementation `{implementation}` in {precision}. Their ranks share one card, over `staged`:

```
{command}
```

It was run on {machine}, in {seconds:.0f} s. A case here can have {possible} of the {every} faults; {count} were run.

Below fp64 a check allows twice what rounding does (its [floor](decisions/0001-tolerance.md)). A fault that is smaller than that
is hidden. Its size is its relative error where its file puts it, mostly in fp64.

"""


def title(lane: Lane) -> str:
    """The lane as the head of a column."""
    return f"{lane.implementation}, {lane.precision}"


def command(lane: Lane) -> str:
    """What measures it."""
    return (
        f"python -m validation faults --implementation {lane.implementation} --precision {lane.precision} --share-gpu 8 --write"
    )


def row(cells: Iterable[Any]) -> str:
    """A line of a table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def section(lane: Lane, measured: Measured, own: Measured) -> str:
    """What was found there; `own` is what was found where the files put the faults."""
    head = _HEAD.format(
        implementation=lane.implementation,
        precision=lane.precision,
        command=command(lane),
        machine=measured.machine,
        seconds=measured.seconds,
        possible=sum(not lane.refusal(catalogue.find(one.fault), one.layout) for one in own.outcomes),
        count=len(measured.outcomes),
        every=len(own.outcomes),
    )
    sizes = {(one.fault, one.layout): one.error for one in own.outcomes if one.status == SEEN}
    parts = (
        _totals(measured, sizes),
        _hidden(measured, sizes),
        _misses(measured, sizes),
        _alarms(measured),
        _absent(lane, own),
    )
    return head + "\n".join(part for part in parts if part)


def cell(one: Outcome, lane: Lane, measured: Measured) -> str:
    """What came of a fault there."""
    found = next((other for other in measured.outcomes if (other.fault, other.layout) == (one.fault, one.layout)), None)
    if found is None:
        return "no case" if lane.refusal(catalogue.find(one.fault), one.layout) else "not run"
    times = f" {found.error / found.limit:.1g}" if found.limit > 0 and math.isfinite(found.error) else ""
    if not found.caught:
        return f"{found.status}{times}"
    return f"caught{times}" if found.status == SEEN else f"caught{times}, at {found.first}"


Sizes = dict[tuple[str, str], float]


def _hides(one: Outcome, sizes: Sizes) -> bool:
    return hidden(one, sizes.get((one.fault, one.layout), math.nan))


def _totals(measured: Measured, sizes: Sizes) -> str:
    columns: dict[str, Callable[[Outcome], bool]] = {
        "caught": lambda one: one.caught,
        "localised": lambda one: one.status == SEEN,
        "hidden": lambda one: _hides(one, sizes),
        **{rule.name: lambda one, name=rule.name: bool(one.peers.get(name)) for rule in RULES},  # type: ignore[misc]
    }

    def of(name: str, found: Sequence[Outcome]) -> str:
        return row([name, len(found), *(sum(map(column, found)) for column in columns.values())])

    by_group = {group: [one for one in measured.outcomes if catalogue.find(one.fault).group == group] for group in GROUPS}
    head = row(["group", "faults", *columns]) + row(["---"] * (len(columns) + 2))
    return head + "".join(of(*pair) for pair in by_group.items() if pair[1]) + of("**all**", measured.outcomes)


def _hidden(measured: Measured, sizes: Sizes) -> str:
    found = [one for one in measured.outcomes if _hides(one, sizes)]
    head = row(["hidden", "what", "size", "limit", "error found", "error without it"]) + row(["---"] * 6)
    lines = [
        row([one.fault, catalogue.find(one.fault).does, *(f"{number:.1e}" for number in numbers)])
        for one in found
        for numbers in [(sizes[one.fault, one.layout], one.limit, one.error, one.sound)]
    ]
    return head + "".join(lines) if lines else ""


def _misses(measured: Measured, sizes: Sizes) -> str:
    lines = []
    for one in measured.outcomes:
        fault = catalogue.find(one.fault)
        if not one.caught and not _hides(one, sizes):
            lines.append(f"- {one.fault}, {one.status}: {fault.does}. {fault.unseen or one.says or 'Not explained.'}\n")
        elif one.caught and one.status != SEEN:
            lines.append(f"- {one.fault}, first seen at {one.first} and not at {one.expected}: {fault.does}.\n")
    return "".join(lines)


def _alarms(measured: Measured) -> str:
    ours = sum(bool(clean.failing or clean.says) for clean in measured.clean)
    checks = sum(clean.checks for clean in measured.clean)
    found = [f"Of the checks: {ours} of {len(measured.clean)} cases without a fault fail ({checks} checks)."]
    for rule in RULES:
        cases = [clean.case for clean in measured.clean if clean.peers.get(rule.name)]
        if cases:
            found.append(f"{rule.name}: {len(cases)}.")
    return " ".join(found) + "\n"


def _absent(lane: Lane, own: Measured) -> str:
    reasons: dict[str, list[str]] = {}
    for one in own.outcomes:
        if reason := lane.refusal(catalogue.find(one.fault), one.layout):
            reasons.setdefault(reason, []).append(one.fault)
    lines = [f"- {', '.join(names)}: {reason}.\n" for reason, names in reasons.items()]
    return "No case here has these:\n\n" + "".join(lines) if lines else ""
