"""What the tests make of a module's mutants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tests.mutants.table import Equivalent, Mutation


@dataclass(frozen=True)
class Score:
    """The mutants of one module: how many, those that no test notices, and those of them that are listed as equivalent.

    `stale` are listed, and noticed by now, or not made any more.
    """

    module: str
    mutants: int
    survivors: tuple[Mutation, ...]
    listed: int
    stale: tuple[Mutation, ...]

    @property
    def percent(self) -> float:
        """Of what is not equivalent, how much is noticed; a module without mutants has nothing to notice."""
        counted = self.mutants - self.listed
        return 100.0 * (counted - len(self.survivors)) / counted if counted else 100.0


def score(module: str, mutants: int, unnoticed: Sequence[Mutation], equivalent: Equivalent) -> Score:
    """The score of a module. Two mutants with one text are one entry of the list: both are equivalent, or none."""
    of_module = [mutation for mutation in equivalent.mutations if mutation.module == module]
    survivors = tuple(one for one in unnoticed if one not in of_module and not equivalent.by_kind(one))
    stale = tuple(mutation for mutation in of_module if mutation not in unnoticed)
    return Score(module, mutants, survivors, len(unnoticed) - len(survivors), stale)


def table(scores: Sequence[Score]) -> str:
    """A line for each module."""
    lines = [f"{'module':<44}{'mutants':>8}{'noticed':>8}{'equivalent':>11}{'survived':>9}{'score':>9}"]
    for one in scores:
        noticed = one.mutants - one.listed - len(one.survivors)
        numbers = f"{one.mutants:>8}{noticed:>8}{one.listed:>11}{len(one.survivors):>9}{one.percent:>7.1f} %"
        lines.append(f"{one.module:<44}{numbers}")
    return "\n".join(lines) + "\n"


def listing(mutations: Iterable[Mutation]) -> str:
    """Mutations as the list of equivalent ones has them, with the reason left to write."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for one in mutations:
        entry = {"was": one.was, "becomes": one.becomes, "why": ""}
        found.setdefault(one.module, {}).setdefault(one.function, []).append(entry)
    return str(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000))
