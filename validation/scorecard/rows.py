"""The rows of a run of some faults among those of the whole catalogue, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from validation.case.errors import UsageError
from validation.faults import catalogue
from validation.scorecard import diagnoses_page
from validation.scorecard.judge import Clean
from validation.scorecard.measured import Measured


def joined(there: Measured | None, new: Measured) -> Measured:
    """What was measured before, with the new rows instead of those of the same faults and cases; machine and time stay.

    The time of known bugs that were not there is added. Without anything before, the new rows alone. Raises UsageError if they
    are of other versions.
    """
    there = there or replace(new, outcomes=(), clean=(), seconds=0)
    same(there.machine, new.machine)
    outcomes = {(one.fault, one.layout, one.bug): one for one in (*there.outcomes, *new.outcomes)}
    clean = _clean(there.clean, new.clean)
    order = [fault.id for fault in catalogue.faults()]
    known = (one for one in outcomes.values() if one.fault in order)
    further = {one.bug for one in new.outcomes}.isdisjoint(one.bug for one in there.outcomes)
    rows = tuple(sorted(known, key=lambda one: order.index(one.fault)))
    return replace(there, outcomes=rows, clean=clean, seconds=there.seconds + further * new.seconds)


def _clean(there: Sequence[Clean], new: Sequence[Clean]) -> tuple[Clean, ...]:
    """Cases without a fault. Several may have one name: a new row takes the place of those of its name that failed."""
    names = {one.case for one in new}
    left = [one for one in there if one.case not in names or not (one.failing or one.says)]
    return (*left, *(one for one in new if one not in left))


def diagnosed(there: diagnoses_page.Measured, new: diagnoses_page.Measured) -> diagnoses_page.Measured:
    """The same of diagnoses."""
    same(there.machine, new.machine)
    found = {one.fault: one for one in (*there.found, *new.found)}
    return replace(there, found=tuple(found[fault.id] for fault in catalogue.faults() if fault.id in found))


def same(there: str, new: str) -> None:
    """Raises UsageError if rows of two runs were measured on different things."""
    if there != new:
        raise UsageError(f"the other rows were measured on {there}, and these on {new}; measure all of them")
