"""The table (table.yaml): which modules are mutated, and which tests must notice it. The list of equivalent mutants, too."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from validation.case.errors import UsageError

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("table.yaml")
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")


@dataclass(frozen=True)
class Row:
    """Modules, by their path in the repository, the files with the tests of all of them, and tests that are not run."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mutation:
    """One change of one function, by its text: line numbers would be wrong after every edit."""

    module: str
    function: str
    was: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.module} {self.function}: {self.was or 'nothing'}  ->  {self.becomes or 'nothing'}"


def rows(table: Path = TABLE) -> list[Row]:
    """The rows of the table, in its order."""
    return [Row(tuple(row["modules"]), tuple(row["tests"]), tuple(row.get("without", ()))) for row in _read(table)["rows"]]


def left_out(table: Path = TABLE) -> dict[str, str]:
    """Modules that are not mutated, each with the reason."""
    return dict(_read(table)["left out"])


@dataclass(frozen=True)
class Equivalent:
    """Mutations that no test can notice, each with the reason; those of `anywhere` change nothing wherever they are made."""

    mutations: Mapping[Mutation, str]
    anywhere: Mapping[tuple[str, str], str]

    def by_kind(self, mutation: Mutation) -> bool:
        """Whether one exchange that changes nothing anywhere is all that the mutation is."""
        return any(mutation.becomes in _exchanged(mutation.was, *exchange) for exchange in self.anywhere)


def _exchanged(text: str, was: str, becomes: str) -> list[str]:
    """The text with one occurrence exchanged, for each occurrence."""
    parts = text.split(was)
    return [was.join(parts[:cut]) + becomes + was.join(parts[cut:]) for cut in range(1, len(parts))]


def equivalent(listed: Path = EQUIVALENT) -> Equivalent:
    """The list of equivalent mutations."""
    content = _read(listed)
    mutations = {
        Mutation(module, function, entry.get("was", ""), entry.get("becomes", "")): entry["why"]
        for module, functions in content["mutations"].items()
        for function, entries in functions.items()
        for entry in entries
    }
    return Equivalent(mutations, {(one["was"], one["becomes"]): one["why"] for one in content["anywhere"]})


def chosen(asked: Sequence[str], table: Path = TABLE) -> list[Row]:
    """The rows of the modules that are asked for, without their other modules; all rows if none is. Raises UsageError."""
    found = rows(table)
    known = {module for row in found for module in row.modules}
    for module in asked:
        if module in left_out(table):
            raise UsageError(f"{module} is not mutated: {left_out(table)[module]}")
        if module not in known:
            raise UsageError(f"{module} is in no row of {table.name}; there are {', '.join(sorted(known))}")
    some = [replace(row, modules=tuple(one for one in row.modules if not asked or one in asked)) for row in found]
    return [row for row in some if row.modules]


@functools.cache
def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
