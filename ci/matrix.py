"""From the table (ci/matrix.yaml) to nox sessions. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from validation.case import preflight
from validation.case.arrangement import parse
from validation.case.case import DEFAULT_SEED, ON_CPU, Case
from validation.case.errors import UsageError
from validation.case.preset import preset
from validation.case.training import Training

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
        """GPUs that the largest layout needs; 0 on the CPU, and 1 where ranks share them."""
        if self.transport in ON_CPU:
            return 0
        return max(parse(name, Training())[0].ranks for name in self.layouts) if self.transport == "nccl" else 1

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
    found: list[Row] = []
    for number, entry in enumerate(_entries(table), start=1):
        name = entry.get("session", f"row {number}") if isinstance(entry, dict) else f"row {number}"
        try:
            found += _expanded(entry)
        except UsageError as error:
            raise UsageError(f"{table.name}: {name}: {error}") from None
    names = [row.session for row in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{table.name}: session {twice} is there twice; give each a name of its own")
    return found


def _entries(table: Path) -> list[Any]:
    try:
        content = yaml.safe_load(table.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{table.name}: not YAML ({' '.join(str(error).split())})") from None
    entries = content.get("rows") if isinstance(content, dict) else None
    if not entries or not isinstance(entries, list):
        raise UsageError(f"{table.name}: there is no list of `rows`; write one row for each session")
    return entries


def _expanded(entry: Any) -> list[Row]:
    _well_formed(entry)
    if "layouts" in entry:
        return [_row(entry, entry["layouts"])]
    if "{layout}" not in entry["session"]:
        raise UsageError("a row with `each` is several sessions; put {layout} into its session name")
    rest = {key: value for key, value in entry.items() if key != "each"}
    return [_row(_filled(rest, layout), [layout]) for layout in entry["each"]]


def _well_formed(entry: Any) -> None:
    """The keys are those of a row, each with a value of its kind."""
    if not isinstance(entry, dict):
        raise UsageError(f"{entry!r} is no row; a row is a mapping")
    known = {field.name for field in fields(Row)} | {"each"}
    if unknown := sorted(set(entry) - known, key=str):
        raise UsageError(f"{unknown[0]} is unknown; a row has {', '.join(sorted(known))}")
    if missing := sorted(known - set(entry) - {"each", "layouts"}):
        raise UsageError(f"{missing[0]} is missing; a row has {', '.join(sorted(known))}")
    if ("each" in entry) == ("layouts" in entry):
        raise UsageError("give either `layouts`, for one session, or `each`, for one session per layout")
    for key, value in entry.items():
        if not _KINDS.get(key, _is_text)(value):
            raise UsageError(f"{key} is {value!r}; it must be {_SAID.get(key, 'text')}")


def _filled(entry: dict[str, Any], layout: str) -> dict[str, Any]:
    ranks = parse(layout, Training())[0].ranks
    words = {"{layout}": layout, "{ranks}": f"{ranks} rank{'s' if ranks > 1 else ''}"}
    filled = dict(entry)
    for key in ("session", "does"):
        for word, value in words.items():
            filled[key] = filled[key].replace(word, value)
    return filled


def _row(entry: dict[str, Any], layouts: list[str]) -> Row:
    if strange := [event for event in entry["when"] if event not in EVENTS]:
        raise UsageError(f"event {strange[0]!r} is unknown; known are {', '.join(EVENTS)}")
    if twice := [layout for layout in layouts if layouts.count(layout) > 1]:
        raise UsageError(f"layout {twice[0]} is there twice; give each layout once")
    lists = {"layouts": tuple(layouts), "runner": tuple(entry["runner"]), "when": tuple(entry["when"])}
    row = Row(**{**entry, **lists})
    for layout in layouts:
        _possible(row, layout)
    return row


def _possible(row: Row, name: str) -> None:
    """Raises UsageError for a case that no machine could run: an unknown word, a degree that does not divide."""
    base = preset(row.preset)
    layout, training, mtp = parse(name, Training())
    case = Case(
        preset=base.name,
        model=base.model if mtp is None else replace(base.model, num_nextn_predict_layers=mtp),
        layout=layout,
        precision=row.precision,
        implementation=row.implementation,
        transport=row.transport,
        seed=DEFAULT_SEED,
        batch_size=base.batch_size,
        micro_batch_size=1,
        seq_length=base.seq_length,
        training=training,
    )
    preflight.check(case, max_ranks=layout.ranks, gpus=layout.ranks, memory=None)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_KINDS: dict[str, Callable[[object], bool]] = {
    "layouts": lambda value: _is_list(value) and bool(value),
    "each": lambda value: _is_list(value) and bool(value),
    "runner": lambda value: _is_list(value) and bool(value),
    "when": _is_list,
    "timeout": lambda value: type(value) is int and value > 0,
}
_SAID = dict.fromkeys(_KINDS, "a list of words") | {"timeout": "a whole number of minutes"}
