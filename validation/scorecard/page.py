"""docs/scorecard.md, made from what `nox -s faults -- --write` measured, which stands beside it in docs/scorecard.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from validation.case import writing
from validation.case.plural import many
from validation.faults import catalogue
from validation.faults.fault import Fault
from validation.faults.left_out import LEFT_OUT
from validation.scorecard import diagnoses_page, lane_page
from validation.scorecard.judge import IDLE, NOWHERE, SEEN, Outcome
from validation.scorecard.lane import DOCS, KEPT, OWN, Lane
from validation.scorecard.measured import Measured, load, saved
from validation.scorecard.peers import RULES, Rule
from validation.scorecard.tables import alarms, misses, row, totals

DATA, PAGE, BEHIND = OWN.data, DOCS / "scorecard.md", DOCS / "scorecard-behind.json"

_HEAD = """# Scorecard

Does the gate see real bugs? Each fault of the catalogue (`validation/faults/catalogue`, a file each, with its source) is put
into the ranks of a small case of preset tiny, and all checks are made of it. Written from `docs/scorecard.json` by
`nox -s faults -- --write`; run on {machine} in {seconds:.0f} s.

- **caught**: a check fails. **Localised**: the first that fails, in the flow of data, is the one that the fault's file names.
- A fault must change the bytes of some tensor, else it is none and an error; and the same case without it must pass.
- Precision faults run in bf16 or fp32 and all others in fp64.

The other columns are what published rules of peers say of the same runs:

{rules}

They are shown at their best. Their own weight rules compare what went there and back, where a mistake made in both directions
cancels; here they get what the ranks hold. They run in bf16, where tolerances have rounding to allow for; here most runs are
exact. A rule that a sound run breaks, too, sees nothing there.
"""


_BEHIND = """## Beside known upstream bugs

A known upstream bug (`validation/run/known.yaml`) excuses only what it causes. A check that it excuses is judged by a second
run of the case with the bug taken out, so that whatever is caught without the bug is caught beside it. Here each fault is put
into its case once more with the bug active, in the layouts that have both (`nox -s faults_behind_bugs`; run on {machine} in
{seconds:.0f} s). The checks raised a false alarm in {cases}. A fault does not show if it changes no byte beside a bug, or has
nothing to be put into there.

"""
_DATA = ("batch_size", "seq_length", "seed")
"""Fields of a fault that say what its case is fed."""
_ERROR = "relative error, or what is wrong"
"""A check of dtypes, roundings or weights that are missing has no error."""
_EXCITED = """## What it takes to show them

Two layers of preset tiny (four for pipelines), 4 sequences of 16 tokens, and for these more:

"""


def save(measured: Measured, data: Path = DATA) -> None:
    """Write the data into its file, and the page of all."""
    writing.write(data, saved(measured))
    write()


def write() -> None:
    """Write the page, once all that it is made from has been measured."""
    if DATA.exists() and BEHIND.exists() and diagnoses_page.DATA.exists():
        writing.write(PAGE, page(load(DATA), load(BEHIND), elsewhere()))


def elsewhere() -> dict[Lane, Measured]:
    """What was measured in other lanes."""
    return {lane: load(lane.data) for lane in KEPT if lane.data.exists()}


def page(measured: Measured, behind: Measured, lanes: Mapping[Lane, Measured]) -> str:
    """The whole page: the catalogue, in other lanes, and beside known upstream bugs."""
    rules = "\n".join(f"- {_linked(rule)}: {rule.asks}" for rule in RULES)
    head = _HEAD.format(machine=measured.machine, seconds=measured.seconds, rules=rules)
    diagnosed = diagnoses_page.summary(diagnoses_page.load())
    others = [lane_page.section(lane, found, measured) for lane, found in lanes.items()]
    missed = "## Missed, or seen elsewhere\n\n" + (misses(measured.outcomes) or "None.\n")
    parts = (
        head,
        "## Totals\n\n" + totals(measured),
        missed,
        "## False alarms\n\n" + alarms(measured),
        *others,
        diagnosed,
        _behind(behind),
        _excited(measured),
    )
    return "\n".join((*parts, _faults(measured, lanes), _left_out()))


def _linked(rule: Rule) -> str:
    return f"[{rule.name}]({rule.link})" if rule.link else f"{rule.name}, the figure that users know"


def _behind(measured: Measured) -> str:
    """What is caught beside each known upstream bug."""
    by_bug = {bug: [one for one in measured.outcomes if one.bug == bug] for bug in dict.fromkeys(map(_bug, measured.outcomes))}
    rows: list[tuple[object, ...]] = [("bug", "tried", "do not show", "caught", "localised"), ("---",) * 5]
    rows += [(f"[{bug}](findings/{bug}.md)", *_counted(found)) for bug, found in by_bug.items()]
    rows += [("**all**", *_counted(measured.outcomes))]
    alarms = sum(bool(clean.failing or clean.says) for clean in measured.clean)
    cases = (
        f"{alarms} of {many(len(measured.clean), 'case')} without a fault "
        f"({many(sum(clean.checks for clean in measured.clean), 'check')})"
    )
    head = _BEHIND.format(machine=measured.machine, seconds=measured.seconds, cases=cases)
    return head + "".join(map(row, rows)) + "\n" + _unseen_behind(measured.outcomes)


def _bug(one: Outcome) -> str:
    return one.bug


def _counted(found: Sequence[Outcome]) -> tuple[int, ...]:
    """Tried, without effect, caught, localised."""
    idle = sum(one.status in (IDLE, NOWHERE) for one in found)
    return len(found), idle, sum(one.caught for one in found), sum(one.status == SEEN for one in found)


def _unseen_behind(found: Iterable[Outcome]) -> str:
    """A line for each that changes something and is not the first to be seen where its file says."""
    lines = [
        f"- {one.fault} in {one.layout} beside {one.bug}: {_how(one)}: {catalogue.find(one.fault).does}.\n"
        for one in found
        if one.status not in (SEEN, IDLE, NOWHERE)
    ]
    return "".join(lines) or "None is missed, and none is first seen elsewhere.\n"


def _how(one: Outcome) -> str:
    return f"first seen at {one.first}" if one.caught else one.status


def _excited(measured: Measured) -> str:
    """The faults whose cases are not those of all others."""
    usual = {field.name: field.default for field in fields(Fault)}
    lines, there = [], {one.fault for one in measured.outcomes}
    for fault in catalogue.faults():
        if fault.id not in there:
            continue
        own = {name: getattr(fault, name) for name in _DATA if getattr(fault, name) != usual[name]}
        numbers = [f"{name} {value}" for name, value in fault.numbers]
        said = ", ".join(numbers + [f"{name.replace('_', ' ')} {value}" for name, value in own.items()])
        if said:
            lines.append(f"- {fault.id}: {said}\n")
    return _EXCITED + "".join(lines)


def _faults(measured: Measured, lanes: Mapping[Lane, Measured]) -> str:
    columns = ["id", "what", "shows", "where", "first failing check", _ERROR, "times the limit", "peers"]
    columns += [lane_page.title(lane) for lane in lanes]
    head = "## Faults\n\n" + row(columns) + row(["---"] * len(columns))
    return head + "".join(_of_fault(one, lanes) for one in measured.outcomes)


def _of_fault(one: Outcome, lanes: Mapping[Lane, Measured]) -> str:
    fault = catalogue.find(one.fault)
    name = f"[{one.fault}](../validation/faults/catalogue/{one.fault.lower()}.py)"
    links = " ".join(f"[{number}]({source})" for number, source in enumerate(fault.sources, start=1))
    where = f"{one.layout}, {fault.precision}"
    also = [lane_page.cell(one, lane, found) for lane, found in lanes.items()]
    shown = one.first or one.status
    return row([name, f"{fault.does} {links}", fault.kind, where, shown, *_numbers(one), _peers(one), *also])


def _numbers(one: Outcome) -> tuple[str, str]:
    """The error, or what the check says if that is no number. What must be equal has no limit to be so many times above."""
    if not math.isfinite(one.error):
        return one.says.partition("; ")[0] if one.caught else "", ""
    return f"{one.error:.0e}", f"{one.error / one.limit:.0e}" if one.limit > 0 else ""


def _peers(one: Outcome) -> str:
    return ", ".join(rule.name for rule in RULES if one.peers.get(rule.name)) or "none"


def _left_out() -> str:
    return "## Left out\n\n" + "".join(f"- {name}: {why}.\n" for name, why in LEFT_OUT.items())


if __name__ == "__main__":
    write()
