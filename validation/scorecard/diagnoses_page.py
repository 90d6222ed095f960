"""docs/diagnoses.md, and its summary in docs/scorecard.md, made from docs/diagnoses.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from validation.case import writing
from validation.faults import catalogue
from validation.faults.fault import GROUPS
from validation.scorecard.diagnoses import RIGHT, SILENT, UNSURE, WRONG, Diagnosed
from validation.scorecard.layouts import COUNT

DOCS = Path(__file__).parents[2] / "docs"
DATA, PAGE = DOCS / "diagnoses.json", DOCS / "diagnoses.md"
_HEAD = """# What the catalogue is diagnosed as

Each fault of the catalogue runs in {count} cases: those that show it, and those in which it must not show. From their
testsuites alone Plumbline [diagnoses](diagnosis.md) what is wrong. `nox -s faults -- --diagnose --write` writes this page
from `docs/diagnoses.json`. It was measured on {machine}; the ranks ran for {seconds:.0f} s.

- **right**: the diagnosis names what the fault's file says (`cause` in `validation/faults/fault.py`), and nothing untrue.
- **unsure**: it names something else, and says that it is not certain.
- **wrong**: it names something else for certain.

A fault that cannot be put into a case, such as one of a layer that a rank does not hold, runs in another case instead.

"""
_SUMMARY = """## Diagnoses

Each fault also runs in {count} cases, and Plumbline [diagnoses](diagnosis.md) the cause from all of them.
[All diagnoses](diagnoses.md) are listed apart.

"""


@dataclass(frozen=True)
class Measured:
    """The diagnoses of the whole catalogue. `machine` says what ran."""

    machine: str
    found: tuple[Diagnosed, ...]

    @property
    def seconds(self) -> float:
        """How long ranks ran, one case after the other."""
        return sum(one.seconds for one in self.found)


def load(data: Path | None = None) -> Measured:
    """What docs/diagnoses.json holds."""
    content = json.loads((data or DATA).read_text(encoding="utf-8"))
    return Measured(content["machine"], tuple(_read(one) for one in content["found"]))


def _read(one: dict[str, Any]) -> Diagnosed:
    lists = {name: tuple(one[name]) for name in ("failing", "passing", "groups")}
    return Diagnosed(**{**one, **lists})


def save(measured: Measured) -> None:
    """Write the data and the page."""
    writing.write(DATA, json.dumps(asdict(measured), indent=1) + "\n")
    writing.write(PAGE, page(measured))


def summary(measured: Measured) -> str:
    """A section with a row for each group of faults."""
    columns: dict[str, Callable[[Diagnosed], bool]] = {
        "diagnosed": lambda one: one.status != SILENT,
        "right": lambda one: one.status == RIGHT,
        "of these certain": lambda one: one.status == RIGHT and one.certain,
        UNSURE: lambda one: one.status == UNSURE,
        "wrong for certain": lambda one: one.status == WRONG,
    }

    def row(name: str, found: Sequence[Diagnosed]) -> str:
        return _row([name, len(found), *(sum(map(column, found)) for column in columns.values())])

    head = _row(["group", "faults", *columns]) + _row(["---"] * (len(columns) + 2))
    groups = {group: [one for one in measured.found if catalogue.find(one.fault).group == group] for group in GROUPS}
    rows = "".join(row(*pair) for pair in groups.items()) + row("**all**", measured.found)
    return _SUMMARY.format(count=COUNT) + head + rows


def page(measured: Measured) -> str:
    """Every diagnosis, those that are not right first."""
    head = _HEAD.format(count=COUNT, machine=measured.machine, seconds=measured.seconds)
    rows = sorted(measured.found, key=lambda one: one.status == RIGHT)
    table = _row(["id", "what", "fails in", "passes in", "names", "says"]) + _row(["---"] * 6) + "".join(map(_of, rows))
    return head + table


def _of(one: Diagnosed) -> str:
    link = f"[{one.fault}](../validation/faults/catalogue/{one.fault.lower()}.py)"
    sure = "" if one.certain or one.status == SILENT else ", not certain"
    named = f"{', '.join(one.groups) or 'nothing'}: {one.status}{sure}"
    wanted = "" if one.status == RIGHT else f"; it is {one.cause}"
    said = " ".join(f"{line}." for line in (one.sentence, one.deciding) if line)
    return _row([link, catalogue.find(one.fault).does, ", ".join(one.failing), ", ".join(one.passing), named + wanted, said])


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in cells)} |\n"


if __name__ == "__main__":
    writing.write(PAGE, page(load()))
