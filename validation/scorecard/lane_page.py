"""What docs/scorecard.md says of the catalogue in a lane of its own: a section, and a cell for each fault."""

from __future__ import annotations

import math

from validation.faults import catalogue
from validation.scorecard.judge import SEEN, Outcome
from validation.scorecard.lane import Lane
from validation.scorecard.measured import Measured
from validation.scorecard.report import hidden
from validation.scorecard.tables import alarms, misses, row, totals

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
        totals(measured, {"hidden": lambda one: _hides(one, sizes)}),
        _hidden(measured, sizes),
        misses(one for one in measured.outcomes if one.caught or not _hides(one, sizes)),
        alarms(measured),
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


def _hidden(measured: Measured, sizes: Sizes) -> str:
    found = [one for one in measured.outcomes if _hides(one, sizes)]
    head = row(["hidden", "what", "size", "limit", "error found", "error without it"]) + row(["---"] * 6)
    lines = [
        row([one.fault, catalogue.find(one.fault).does, *map(_shown, numbers)])
        for one in found
        for numbers in [(sizes[one.fault, one.layout], one.limit, one.error, one.sound)]
    ]
    return head + "".join(lines) if lines else ""


def _shown(number: float) -> str:
    return f"{number:.1e}" if math.isfinite(number) else ""


def _absent(lane: Lane, own: Measured) -> str:
    reasons: dict[str, list[str]] = {}
    for one in own.outcomes:
        if reason := lane.refusal(catalogue.find(one.fault), one.layout):
            reasons.setdefault(reason, []).append(one.fault)
    lines = [f"- {', '.join(names)}: {reason}.\n" for reason, names in reasons.items()]
    return "No case here has these:\n\n" + "".join(lines) if lines else ""
