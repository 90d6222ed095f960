"""The fixture that the self-test is written with: a planted defect, and whether the checks see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from validation.checks.gate import verdicts
from validation.checks.order import RUN, place
from validation.faults.plan import Plant

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result


class PlantedRuns(Protocol):
    """Where results come from."""

    def planted(self, plant: Plant) -> Result:
        """What the ranks with the defect found; waits for them."""


class Planted:
    """One planted defect, and the statement that a check may make of it; as Parity is for a case."""

    def __init__(self, plant: Plant, runs: PlantedRuns) -> None:
        self.plant, self._runs = plant, runs
        self.verdict: Verdict | None = None

    def is_seen(self) -> None:
        """In data-flow order the check that the table names is the first to fail: all before it pass."""
        result = self._runs.planted(self.plant)
        self.verdict = judge_planted(self.plant, result)
        if self.verdict.status != "pass":
            pytest.fail(self.verdict.line, pytrace=False)


def judge_planted(plant: Plant, result: Result) -> Verdict:
    """Whether the gate sees the defect, from what the ranks with it found."""
    from validation.compare.verdict import Verdict

    title = f"Planted defect seen: {plant.defect.group}"
    if result.broken is not None:
        return Verdict("error", title, reasons=(result.broken.sentence,), details=result.broken.stacks)
    found = list(verdicts(result))
    failing = [verdict for verdict in found if verdict.status in ("fail", "error")]
    first = min(failing, key=lambda verdict: verdict.place, default=None)
    wanted = place(plant.case, plant.check)
    properties = {"planted": plant.defect.does, "layout": plant.case.layout.name, "expected": plant.check}
    if first is None:
        return Verdict("fail", title, reasons=(f"not seen, no check fails ({plant.defect.does}): the gate is blind to it",))
    properties |= {"first": first.title, **first.properties}
    if wanted != RUN and first.place == wanted:
        numbers = f"first failing check {first.title} (relative {float(first.properties['rel_error']):.1e})"
        return Verdict("pass", title, numbers, properties=properties)
    wanted_title = next((verdict.title for verdict in found if verdict.place == wanted), plant.check)
    reason = f"not seen where it is, the first failing check is {first.title} and not {wanted_title}: the gate is blind to it"
    return Verdict("fail", title, reasons=(reason,), properties=properties, details=first.line)
