"""The first check of a case that fails in the flow of data: the one nearest to the cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from validation.case.case import Case
from validation.checks.again import CHANGED
from validation.checks.judging import MODELLING
from validation.checks.order import UNPLACED
from validation.run.options import Settings
from validation.run.reproduce import alone, command

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict


@dataclass(frozen=True)
class First:
    """A failing check: its place in the flow of data, its line, its title. `modelling`: one rank has the failure, too.

    `twice`: only two runs of the case show it.
    """

    case: Case
    place: tuple[int, int]
    line: str
    check: str
    modelling: bool
    twice: bool = False

    @classmethod
    def of(cls, case: Case, check: str, line: str, verdict: Verdict | None) -> First:
        """From what a check left."""
        if verdict is None:
            return cls(case, UNPLACED, line, check, modelling=False)
        twice = any(CHANGED in reason for reason in verdict.reasons)
        return cls(case, verdict.place, line, check, verdict.properties.get("kind") == MODELLING, twice)

    def command(self, settings: Settings) -> str:
        """What reproduces it on the fewest ranks that are known to show it."""
        case = alone(self.case) if self.modelling else self.case
        return command(case, self.check, settings, twice=self.twice)
