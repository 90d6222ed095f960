"""The fixture that the self-test is written with: a planted defect, and whether the checks see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import pytest

from validation.case import failures
from validation.case.case import Case
from validation.checks.order import RUN, place
from validation.checks.outcome import first_failing
from validation.checks.verdicts import verdicts
from validation.faults.plan import Plant
from validation.run import cause

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.launch import Broken
    from validation.run.result import Result


class PlantedRuns(Protocol):
    """Where results come from."""

    def planted(self, plant: Plant) -> Result:
        """What the ranks with the defect found; waits for them."""

    def sound(self, plant: Plant) -> Result:
        """What the ranks of the same case find without it."""

    def fails_for(self, plant: Plant) -> bool:
        """Whether this check is to fail if the same case fails without the defect: nothing else has said so yet."""


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
        planted, sound = self._runs.planted(self.plant), self._runs.sound(self.plant)
        self.verdict = judge_planted(self.plant, planted, sound, self._runs.fails_for)
        if self.verdict.status == "unevaluated":
            pytest.skip(self.verdict.line)
        if self.verdict.status != "pass":
            pytest.fail(self.verdict.line, pytrace=False)


def title(plant: Plant) -> str:
    """What the check of a planted defect is called."""
    return f"Planted defect seen: {plant.kind}"


def judge_planted(plant: Plant, planted: Result, sound: Result, fails_for: Callable[[Plant], bool]) -> Verdict:
    """Whether the gate sees the defect, from what the ranks found with it and without it.

    If the same case fails without the defect, nothing is evaluated: one failure makes no others. It fails here if
    `fails_for` says that nothing else has failed for that reason.
    """
    from validation.compare.verdict import Verdict

    if sound.broken is not None:
        return _unsound(plant, f"does not finish: {sound.broken.sentence}", sound.broken, fails_for)
    if planted.broken is not None:
        kind = cause.failure(planted.broken.exit_code, planted.broken.sentence)
        return Verdict("error", title(plant), reasons=(planted.broken.sentence,), details=planted.broken.stacks, failure=kind)
    without, wanted = _first_failing(sound), place(plant.case, plant.check)
    if without is not None and without.place <= wanted:
        return _unsound(plant, f"fails at {without.title}", without, fails_for)
    properties = {"planted": plant.fault.does, "layout": plant.case.layout.name, "expected": plant.check}
    first = _first_failing(planted)
    reason, details = _unseen(plant, first, without, sound)
    if first is not None:
        properties |= {"first": first.title, **first.properties}
    if reason or first is None:
        return Verdict("fail", title(plant), reasons=(reason,), properties=properties, details=details, failure=failures.BLIND)
    error = float(first.properties.get("rel_error", math.nan))
    numbers = first_failing(first.title, error, "; ".join(first.reasons))
    return Verdict("pass", title(plant), numbers, properties=properties)


def _unsound(plant: Plant, how: str, found: Broken | Verdict, fails_for: Callable[[Plant], bool]) -> Verdict:
    """The verdict where the same case fails without the defect, or does not finish."""
    from validation.compare.verdict import Verdict

    said = f"the same case without it ({plant.case.title}) {how}"
    if not fails_for(plant):
        return Verdict("unevaluated", title(plant), reasons=(said,))
    if isinstance(found, Verdict):
        return Verdict("fail", title(plant), reasons=(said,), details=f"    {found.line}", failure=failures.UNSOUND)
    kind = cause.failure(found.exit_code, found.sentence)
    return Verdict("error", title(plant), reasons=(said,), details=found.stacks, failure=kind)


def _unseen(plant: Plant, first: Verdict | None, without: Verdict | None, sound: Result) -> tuple[str, str]:
    """Why the defect cannot be said to be seen, with the line of the check that says so; empty where it is.

    `first` is the first check that fails with the defect, `without` the first that fails in the sound run.
    """
    wanted, known = place(plant.case, plant.check), {verdict.place: verdict.title for verdict in verdicts(sound)}
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
