"""Running the array: every row, then of every row that fails the smallest part that still fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from validation.pairwise.cases import case_of, refusal
from validation.recipe.pairs import Row, Value, arrangement, switched
from validation.recipe.reduce import smallest
from validation.run.options import Settings


@dataclass(frozen=True)
class Outcome:
    """What came of one row: how many checks there were, how many show known bugs, and the lines of those that fail."""

    row: Row
    checks: int
    known: int
    failing: tuple[str, ...]
    seconds: float

    @property
    def name(self) -> str:
        """The row as a layout with its words."""
        return arrangement(self.row)


@dataclass(frozen=True)
class Finding:
    """A smallest part that fails, with the row in which it was seen first, all rows that have it, and its first line."""

    part: Row
    rows: tuple[Row, ...]
    line: str

    @property
    def name(self) -> str:
        """The part as a layout with its words."""
        return arrangement(self.part)


class Bench:
    """Runs rows on warm ranks, each once."""

    def __init__(self, settings: Settings) -> None:
        from validation.run.runner import Runner

        self._runner = Runner(settings)

    def start(self, rows: Sequence[Row]) -> None:
        """Have these rows run, in this order."""
        from validation.run.known import mended

        for row in rows:
            case = case_of(row)
            self._runner.start([case, mended(case)])

    def outcome(self, row: Row) -> Outcome:
        """What the checks say of a row; waits for it."""
        from validation.checks.verdicts import verdicts
        from validation.run.known import mended

        start, case = time.monotonic(), case_of(row)
        self.start([row])
        result, without = self._runner.result(case), self._runner.result(mended(case))
        if broken := result.broken or without.broken:
            return Outcome(row, 0, 0, (f"did not finish: {broken.sentence}",), time.monotonic() - start)
        found = list(verdicts(result, without))
        failing = sorted((one for one in found if one.status in ("fail", "error")), key=lambda one: one.place)
        known = sum(one.status == "known" for one in found)
        return Outcome(row, len(found), known, tuple(one.line for one in failing), time.monotonic() - start)

    def close(self) -> None:
        """End what is still running."""
        self._runner.close()


def outcomes(rows: Sequence[Row], bench: Bench) -> Iterator[Outcome]:
    """What comes of each row, in their order."""
    bench.start(rows)
    yield from map(bench.outcome, rows)


def findings(failed: Sequence[Outcome], outcome: Callable[[Row], Outcome]) -> list[Finding]:
    """The smallest parts that fail. A row that fails no more without those that were found is not reduced again."""
    found: list[Finding] = []

    def fails(part: tuple[Value, ...]) -> bool:
        return refusal(part) is None and bool(outcome(part).failing)

    for one in failed:
        left = switched(one.row)
        for finding in (finding for finding in found if set(finding.part) <= set(left)):
            left = tuple(value for value in left if value not in finding.part)
        if len(left) < len(switched(one.row)) and not fails(left):
            continue
        part = smallest(left, fails)
        rows = tuple(other.row for other in failed if set(part) <= set(other.row))
        found.append(Finding(part, rows, outcome(part).failing[0]))
    return found
