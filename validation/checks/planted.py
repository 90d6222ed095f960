"""The fixture that the self-test is written with: a planted defect, and whether the checks see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from validation.case.case import Case
from validation.checks.order import RUN, place
from validation.checks.verdicts import verdicts
from validation.faults.plan import Plant

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result


class PlantedRuns(Protocol):
    """Where results come from."""

    def planted(self, plant: Plant) -> Result:
        """What the ranks with the defect found; waits for them."""

    def sound(self, plant: Plant) -> Result:
        """What the ranks of the same case find without it."""


class Planted:
    """One planted defect, and the statement that a check may make of it; as Parity is for a case."""

    def __init__(self, plant: Plant, runs: PlantedRuns) -> None:
        self.plant, self._runs = plant, runs
        self.verdict: Verdict | None = None

    @property
    def title(self) -> str:
        """What the check is called."""
        return title(self.plant)

    def is_seen(self) -> None:
        """In data-flow order the check that the table names is the first to fail, and without the defect it passes."""
        self.verdict = judge_planted(self.plant, self._runs.planted(self.plant), self._runs.sound(self.plant))
        if self.verdict.status != "pass":
            pytest.fail(self.verdict.line, pytrace=False)


def title(plant: Plant) -> str:
    """What the check of a planted defect is called."""
    return f"Planted defect seen: {plant.kind}"


def judge_planted(plant: Plant, planted: Result, sound: Result) -> Verdict:
    """Whether the gate sees the defect, from what the ranks found with it and without it."""
    from validation.compare.verdict import Verdict

    broken = planted.broken or sound.broken
    if broken is not None:
        return Verdict("error", title(plant), reasons=(broken.sentence,), details=broken.stacks)
    properties = {"planted": plant.fault.does, "layout": plant.case.layout.name, "expected": plant.check}
    first = _first_failing(planted)
    reason, details = _unseen(plant, first, sound)
    if first is not None:
        properties |= {"first": first.title, **first.properties}
    if reason or first is None:
        return Verdict("fail", title(plant), reasons=(reason,), properties=properties, details=details)
    numbers = f"first failing check {first.title} (relative {float(first.properties['rel_error']):.1e})"
    return Verdict("pass", title(plant), numbers, properties=properties)


def _unseen(plant: Plant, first: Verdict | None, sound: Result) -> tuple[str, str]:
    """Why the defect cannot be said to be seen, with the line of the check that says so; empty where it is."""
    wanted, known = place(plant.case, plant.check), {verdict.place: verdict.title for verdict in verdicts(sound)}
    without = _first_failing(sound)
    if without is not None and without.place <= wanted:
        return f"the same case without it fails at {without.title}, too: nothing is shown", f"    {without.line}"
    if first is None:
        return f"not seen, no check fails ({plant.fault.does}): the gate is blind to it", ""
    if _below_its_floor(plant.case) and without is None and first.place > wanted:
        return "", ""
    if wanted == RUN or first.place != wanted:
        said = f"the first failing check is {first.title} and not {known.get(wanted, plant.check)}"
        return f"not seen where it is, {said}: the gate is blind to it", f"    {first.line}"
    return "", ""


def _below_its_floor(case: Case) -> bool:
    """Whether a defect may stay below rounding where it is and be seen further on only.

    In a lower precision, with weights that are not ours: where attention is nearly uniform, say, its scale hardly matters.
    """
    return case.hf_model_path is not None and case.precision != "fp64"


def _first_failing(result: Result) -> Verdict | None:
    """The first in data-flow order: all before it pass, or show a known upstream bug."""
    failing = [verdict for verdict in verdicts(result) if verdict.status in ("fail", "error")]
    return min(failing, key=lambda verdict: verdict.place, default=None)
