"""What the scorecard says while it runs, its JUnit files, and the exit code."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ci import junit
from validation.case.errors import ExitCode
from validation.case.failures import BLIND, UNDECIDED, UNSOUND
from validation.case.plural import many
from validation.checks.outcome import first_failing
from validation.faults import catalogue
from validation.scorecard.judge import BROKEN, IDLE, MISSED, NOWHERE, SEEN, Clean, Outcome
from validation.scorecard.lane import OWN, Lane
from validation.scorecard.measured import load

CLEAN = "clean"
_COMPONENT = "scorecard"


class Scorecard:
    """Takes in what comes of faults and clean cases; leaves a JUnit file for each group of faults and one for the cases.

    `sizes` has by fault and layout the relative error that the fault makes, where rounding is as large as that of some: one
    that is within the limit need not be caught.
    """

    def __init__(
        self, results: Path, facts: Mapping[str, str], groups: list[str], sizes: Mapping[tuple[str, str], float] | None = None
    ) -> None:
        self._results, self._facts, self._sizes = results, dict(facts), sizes or {}
        self._checks: dict[str, list[junit.Check]] = defaultdict(list)
        for group in (*groups, CLEAN):
            junit.write_unfinished(file_of(results, group), _name(group), self._facts)

    def add(self, found: Clean | Outcome) -> None:
        """Say and keep what came of one."""
        group = (found.bug or catalogue.find(found.fault).group) if isinstance(found, Outcome) else CLEAN
        check = self._of_fault(found) if isinstance(found, Outcome) else _of_clean(found)
        self._checks[group].append(check)
        sys.stdout.write(f"{check.details}\n")
        sys.stdout.flush()

    def _of_fault(self, found: Outcome) -> junit.Check:
        return _of_fault(found, self._sizes.get((found.fault, found.layout), math.nan))

    def finish(self) -> ExitCode:
        """Write the files; the exit code."""
        for group, checks in self._checks.items():
            suite = junit.Suite(_name(group), tuple(checks), self._facts, 0.0, time.strftime("%Y-%m-%dT%H:%M:%S"))
            path = file_of(self._results, group)
            junit.write(path, suite)
            sys.stdout.write(f"JUnit: {path}\n")
        failed = any(check.status in ("fail", "error") for checks in self._checks.values() for check in checks)
        return ExitCode.FAIL if failed else ExitCode.PASS


def file_of(results: Path, group: str) -> Path:
    """The JUnit file of a group of faults, or of the cases without one."""
    return results / f"{_name(group)}.xml"


def _name(group: str) -> str:
    return f"faults-{group.replace(' ', '-')}"


def _of_clean(found: Clean) -> junit.Check:
    title = f"Without a fault: {found.case}"
    if found.says:
        return _check(title, "error", found.says)
    if found.failing:
        return _check(
            title,
            "fail",
            f"{len(found.failing)} of {many(found.checks, 'check')} "
            f"{'fails' if len(found.failing) == 1 else 'fail'}, first {found.failing[0]}",
            failing=UNSOUND,
        )
    return _check(title, "pass", f"{many(found.checks, 'check passes', 'checks pass')}")


def sizes(lane: Lane) -> Mapping[tuple[str, str], float]:
    """How large each fault is where its file puts it, mostly in fp64, for a lane that rounds more; nothing for that itself."""
    found = load(OWN.data).outcomes if lane != OWN and OWN.data.exists() else ()
    return {(one.fault, one.layout): one.error for one in found if one.status == SEEN}


def hidden(found: Outcome, size: float) -> bool:
    """Whether a fault of that size is missed because rounding may be as large."""
    return found.status == MISSED and size <= found.limit


def _of_fault(found: Outcome, size: float) -> junit.Check:
    fault = catalogue.find(found.fault)
    title = f"Fault seen: {found.fault} in {found.layout}" + (f" beside {found.bug}" if found.bug else "")
    numbers = {"rel_error": found.error, "tolerance": found.limit}
    properties = {
        "fault": found.fault,
        "does": fault.does,
        "layout": found.layout,
        "expected": found.expected,
        "first": found.first,
        "localised": str(found.status == SEEN).lower(),
        **{name: repr(number) for name, number in numbers.items() if math.isfinite(number)},
        "failing": str(found.failing),
        "changed": str(found.changed),
        "peers": ", ".join(name for name, broken in found.peers.items() if broken),
    }
    return _check(title, *_said(found, size), properties)


def _said(found: Outcome, size: float) -> tuple[str, str]:
    """Status and sentence."""
    fault = catalogue.find(found.fault)
    if found.status == BROKEN:
        return "error", f"{fault.does}: {found.says}"
    if found.status == IDLE and found.bug:
        return "known", f"{fault.does}: not a byte is other than without it, so that it does not show beside {found.bug}"
    if found.status == NOWHERE:
        return "known", f"{fault.does}: the case beside {found.bug} has not what it changes ({found.says})"
    if found.status == IDLE:
        return "error", f"{fault.does}: not a byte is other than without it, so that there is no fault"
    if hidden(found, size) and not fault.unseen:
        return "known", f"{fault.does}: missed, since it is {size:.1e} and rounding may be {found.limit:.1e}"
    if not found.caught:
        return ("known", f"{fault.does}: missed, {fault.unseen}") if fault.unseen else ("fail", f"{fault.does}: no check fails")
    if fault.unseen:
        return "fail", f"{fault.does}: caught, though it is said to be missed ({fault.unseen}); remove that from its file"
    where = first_failing(found.first, found.error, found.says)
    return "pass", f"{fault.does}: {where}" + ("" if found.status == SEEN else f", expected was {found.expected}")


def _check(
    title: str, status: str, sentence: str, properties: Mapping[str, str] | None = None, failing: str = BLIND
) -> junit.Check:
    line = f"{status.upper()}: {title} - {sentence}"
    return junit.Check(
        component=_COMPONENT,
        name=title,
        status=status,
        message="" if status == "pass" else line,
        details=line,
        properties=properties or {},
        failure={"fail": failing, "error": UNDECIDED}.get(status, ""),
    )
