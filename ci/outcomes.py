"""What came of the cases that `nox -s versions` runs with every release, as their JUnit files say. Imports no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ci import junit
from ci.junit import UNEVALUATED
from ci.releases import LIBRARIES, RELEASES, Release, groups, title
from validation.case import writing
from validation.case.arrangement import parse, written
from validation.case.training import Training

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs" / "versions.json"
KNOWN = ROOT / "validation" / "run" / "known.yaml"


@dataclass(frozen=True)
class Cell:
    """The outcome of one case: `right`, `wrong` or `refused`. `says` is the sentence of a refusal or of what nobody lists."""

    outcome: str
    checks: int
    failed: int
    largest_error: float
    known: tuple[str, ...] = ()
    says: str = ""


@dataclass(frozen=True)
class Column:
    """What one release did. `name` is that of ci/releases.py. `cells` has a cell for each row of the tables, by its title."""

    name: str
    megatron_core: str
    transformers: str
    torch: str
    cells: dict[str, Cell]


def columns(folder: Path) -> list[Column]:
    """Every release: what its results in the folder say, or what was measured before. Raises UnreadableResults."""
    before = {column.name: column for column in load()}
    return [_column(release, folder, before) for release in (*RELEASES, *LIBRARIES)]


def _column(release: Release, folder: Path, before: Mapping[str, Column]) -> Column:
    if (folder / release.name).is_dir():
        return read_column(release, folder)
    if release.name not in before:
        raise junit.UnreadableResults(f"{folder / release.name}: no results; run nox -s versions -- {release.name}")
    return before[release.name]


def read_column(release: Release, folder: Path) -> Column:
    """What a release's results below the folder say. Raises UnreadableResults, also where a layout has left none."""
    cells, said = {}, {}
    for group in groups(release):
        place = folder / release.name / group.name
        suites = [junit.read(path) for path in sorted(place.glob("*.xml"))]
        by_arrangement = {suite.properties.get("arrangement"): suite for suite in suites}
        for layout in group.layouts:
            if layout in release.refused:
                cells[title(group, layout)] = Cell("refused", 0, 0, 0.0, says=release.refused[layout])
                continue
            suite = by_arrangement.get(written(*parse(layout, Training())))
            if suite is None:
                raise junit.UnreadableResults(f"{place}: no results of {layout}; run nox -s versions -- {release.name}")
            cells[title(group, layout)] = read_cell(suite)
            said = dict(suite.properties)
    core, transformers, torch = (said.get(library, "?") for library in ("megatron-core", "transformers", "torch"))
    return Column(release.name, core, transformers, torch, cells)


def read_cell(suite: junit.Suite) -> Cell:
    """One case's outcome. An error refuses it, whatever else was found.

    Raises UnreadableResults for a run that was lost or killed: that says nothing of the release.
    """
    of = {
        status: [check for check in suite.checks if check.status == status]
        for status in ("error", "fail", "known", UNEVALUATED)
    }
    errors = [float(check.properties["rel_error"]) for check in suite.checks if "rel_error" in check.properties]
    largest = max(errors, default=0.0)
    bugs = {check.message.partition("known upstream bug: ")[2] for check in of["known"]}
    known = tuple(bug["id"] for bug in known_bugs() if any(said.startswith(bug["what"]) for said in bugs))
    failed = len(of["fail"]) + len(of["known"])
    if of["error"]:
        says = _sentence(of["error"][0].message)
        if " raised " not in says:
            raise junit.UnreadableResults(f"{suite.name}: {says}; run it again")
        return Cell("refused", len(suite.checks), 0, 0.0, says=says)
    if of[UNEVALUATED]:
        raise junit.UnreadableResults(f"{suite.name}: {of[UNEVALUATED][0].message}; run it again")
    says = _sentence(of["fail"][0].message) if of["fail"] else ""
    return Cell("wrong" if failed else "right", len(suite.checks), failed, largest, known, says)


def _sentence(message: str) -> str:
    return message.partition(" - ")[2].partition("\n")[0] or message.partition("\n")[0]


@functools.cache
def known_bugs() -> list[dict[str, str]]:
    """The table of known upstream bugs, which is data here: id, what, finding."""
    found: list[dict[str, str]] = yaml.safe_load(KNOWN.read_text(encoding="utf-8"))["known"]
    return found


def load() -> list[Column]:
    """The columns that `save` left."""
    return [
        Column(**{**column, "cells": {name: _cell(cell) for name, cell in column["cells"].items()}})
        for column in json.loads(DATA.read_text(encoding="utf-8"))
    ]


def _cell(entry: dict[str, Any]) -> Cell:
    return Cell(**{**entry, "known": tuple(entry["known"])})


def save(columns: Sequence[Column]) -> None:
    """The measurement itself, from which the page can be made again."""
    writing.write(DATA, json.dumps([asdict(column) for column in columns], indent=1) + "\n")
