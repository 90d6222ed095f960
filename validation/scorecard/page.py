"""docs/scorecard.md, made from what `nox -s faults -- --write` measured, which stands beside it in docs/scorecard.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from validation.faults import catalogue
from validation.faults.fault import GROUPS, Fault
from validation.faults.left_out import LEFT_OUT
from validation.scorecard.judge import SEEN, Clean, Outcome
from validation.scorecard.peers import RULES, Rule

DOCS = Path(__file__).parents[2] / "docs"
DATA, PAGE = DOCS / "scorecard.json", DOCS / "scorecard.md"

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


_DATA = ("batch_size", "seq_length", "seed")
"""Fields of a fault that say what its case is fed."""
_EXCITED = """## What it takes to show them

Two layers of preset tiny (four for pipelines), 4 sequences of 16 tokens, and for these more:

"""


@dataclass(frozen=True)
class Measured:
    """What one run of the whole catalogue found. `machine` says what ran."""

    machine: str
    seconds: float
    outcomes: tuple[Outcome, ...]
    clean: tuple[Clean, ...]


def load() -> Measured:
    """What docs/scorecard.json holds."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    found = [Outcome(**_numbered(one)) for one in data["outcomes"]]
    clean = [Clean(**{**one, "failing": tuple(one["failing"])}) for one in data["clean"]]
    return Measured(data["machine"], data["seconds"], tuple(found), tuple(clean))


def _numbered(one: dict[str, Any]) -> dict[str, Any]:
    """What JSON has no number for."""
    return {key: math.nan if value is None else value for key, value in one.items()}


def save(measured: Measured) -> None:
    """Write data and page."""
    data = asdict(measured)
    for one in data["outcomes"]:
        one.update({key: None for key, value in one.items() if isinstance(value, float) and not math.isfinite(value)})
    DATA.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(load()), encoding="utf-8")


def page(measured: Measured) -> str:
    """The whole page."""
    rules = "\n".join(f"- {_linked(rule)}: {rule.asks}" for rule in RULES)
    head = _HEAD.format(machine=measured.machine, seconds=measured.seconds, rules=rules)
    parts = (head, _totals(measured), _misses(measured), _alarms(measured), _excited(), _faults(measured), _left_out())
    return "\n".join(parts)


def _linked(rule: Rule) -> str:
    return f"[{rule.name}]({rule.link})" if rule.link else f"{rule.name}, the figure that users know"


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def _totals(measured: Measured) -> str:
    columns: dict[str, Callable[[Outcome], bool]] = {
        "caught": lambda one: one.caught,
        "localised": lambda one: one.status == SEEN,
        **{rule.name: lambda one, name=rule.name: bool(one.peers.get(name)) for rule in RULES},  # type: ignore[misc]
    }

    def row(name: str, found: Sequence[Outcome]) -> str:
        return _row([name, len(found), *(sum(map(column, found)) for column in columns.values())])

    by_group = {group: [one for one in measured.outcomes if catalogue.find(one.fault).group == group] for group in GROUPS}
    head = _row(["group", "faults", *columns]) + _row(["---"] * (len(columns) + 2))
    return "## Totals\n\n" + head + "".join(row(*pair) for pair in by_group.items()) + row("**all**", measured.outcomes)


def _misses(measured: Measured) -> str:
    lines = []
    for one in measured.outcomes:
        fault = catalogue.find(one.fault)
        if not one.caught:
            lines.append(f"- {one.fault}, {one.status}: {fault.does}. {fault.unseen or one.says or 'Not explained.'}\n")
        elif one.status != SEEN:
            lines.append(f"- {one.fault}, first seen at {one.first} and not at {one.expected}: {fault.does}.\n")
    return "## Missed, or seen elsewhere\n\n" + ("".join(lines) or "None.\n")


def _alarms(measured: Measured) -> str:
    ours = sum(bool(clean.failing or clean.says) for clean in measured.clean)
    checks = sum(clean.checks for clean in measured.clean)
    found = [f"Of the checks: {ours} of {len(measured.clean)} cases without a fault ({checks} checks).\n"]
    for rule in RULES:
        cases = [clean.case for clean in measured.clean if clean.peers.get(rule.name)]
        if cases:
            found.append(f"{rule.name}: {len(cases)} ({', '.join(dict.fromkeys(cases))}).\n")
    return "## False alarms\n\n" + "\n".join(found)


def _excited() -> str:
    """The faults whose cases are not those of all others."""
    usual = {field.name: field.default for field in fields(Fault)}
    lines = []
    for fault in catalogue.faults():
        own = {name: getattr(fault, name) for name in _DATA if getattr(fault, name) != usual[name]}
        numbers = [f"{name} {value}" for name, value in fault.numbers]
        said = ", ".join(numbers + [f"{name.replace('_', ' ')} {value}" for name, value in own.items()])
        if said:
            lines.append(f"- {fault.id}: {said}\n")
    return _EXCITED + "".join(lines)


def _faults(measured: Measured) -> str:
    head = _row(["id", "what", "shows", "where", "first failing check", "relative error", "times the limit", "peers"])
    return "## Faults\n\n" + head + _row(["---"] * 8) + "".join(map(_of_fault, measured.outcomes))


def _of_fault(one: Outcome) -> str:
    fault = catalogue.find(one.fault)
    name = f"[{one.fault}](../validation/faults/catalogue/{one.fault.lower()}.py)"
    links = " ".join(f"[{number}]({source})" for number, source in enumerate(fault.sources, start=1))
    where = f"{one.layout}, {fault.precision}"
    return _row([name, f"{fault.does} {links}", fault.kind, where, one.first or one.status, *_numbers(one), _peers(one)])


def _numbers(one: Outcome) -> tuple[str, str]:
    """Weights and choices must be equal: there is no limit to be so many times above."""
    error = f"{one.error:.0e}" if math.isfinite(one.error) else ""
    return error, f"{one.error / one.limit:.0e}" if error and one.limit > 0 else ""


def _peers(one: Outcome) -> str:
    return ", ".join(rule.name for rule in RULES if one.peers.get(rule.name)) or "none"


def _left_out() -> str:
    return "## Left out\n\n" + "".join(f"- {name}: {why}.\n" for name, why in LEFT_OUT.items())


if __name__ == "__main__":
    PAGE.write_text(page(load()), encoding="utf-8")
