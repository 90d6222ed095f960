"""From the table (ci/matrix.yaml) to nox sessions. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from validation.case.errors import UsageError
from validation.case.layout import Layout

TABLE = Path(__file__).with_name("matrix.yaml")
EVENTS = ("pull_request", "merge_group", "nightly")


@dataclass(frozen=True)
class Row:
    """One session: what it compares, and on what machine. `timeout` is in minutes."""

    session: str
    does: str
    preset: str
    layouts: tuple[str, ...]
    precision: str
    implementation: str
    transport: str
    runner: tuple[str, ...]
    when: tuple[str, ...]
    timeout: int

    @property
    def gpus(self) -> int:
        """GPUs that the largest layout needs; 0 on the CPU."""
        return max(Layout.parse(name).ranks for name in self.layouts) if self.transport == "nccl" else 0

    def arguments(self) -> list[str]:
        """The command line after `python -m validation`."""
        chosen = {
            "preset": self.preset,
            "layouts": ",".join(self.layouts),
            "precision": self.precision,
            "implementation": self.implementation,
            "transport": self.transport,
        }
        return ["run", *(word for name, value in chosen.items() for word in (f"--{name}", value))]


def rows(table: Path = TABLE) -> list[Row]:
    """Every session of the table, in its order. Raises UsageError, naming the row, for anything out of order."""
    try:
        entries = yaml.safe_load(table.read_text(encoding="utf-8"))["rows"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UsageError(f"{table.name}: not a table with `rows` ({str(error).splitlines()[0]})") from None
    found = [row for entry in entries for row in _expanded(entry, table.name)]
    names = [row.session for row in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{table.name}: session {twice} is there twice; give each a name of its own")
    return found


def _expanded(entry: dict[str, Any], source: str) -> list[Row]:
    name = entry.get("session", "a row without a session")
    known = {field.name for field in fields(Row)} | {"each"}
    wrong = sorted(set(entry) - known) + sorted((known - set(entry)) - {"each", "layouts"})
    if wrong or ("each" in entry) == ("layouts" in entry):
        problem = f"{wrong[0]} is unknown or missing" if wrong else "give either `layouts` or `each`"
        raise UsageError(f"{source}: {name}: {problem}; a row has {', '.join(sorted(known))}")
    if "layouts" in entry:
        return [_row(entry, tuple(entry["layouts"]), source)]
    rest = {key: value for key, value in entry.items() if key != "each"}
    return [_row(_filled(rest, layout), (layout,), source) for layout in entry["each"]]


def _filled(entry: dict[str, Any], layout: str) -> dict[str, Any]:
    ranks = Layout.parse(layout).ranks
    words = {"layout": layout, "ranks": f"{ranks} rank" + ("s" if ranks > 1 else "")}
    return {**entry, "session": entry["session"].format(**words), "does": entry["does"].format(**words)}


def _row(entry: dict[str, Any], layouts: tuple[str, ...], source: str) -> Row:
    for layout in layouts:
        Layout.parse(layout)
    strange = [event for event in entry["when"] if event not in EVENTS]
    if strange or not layouts:
        problem = f"event {strange[0]!r} is unknown; known are {', '.join(EVENTS)}" if strange else "no layouts"
        raise UsageError(f"{source}: {entry['session']}: {problem}")
    return Row(**{**entry, "layouts": layouts, "runner": tuple(entry["runner"]), "when": tuple(entry["when"])})
