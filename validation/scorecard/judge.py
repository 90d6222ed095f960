"""What came of one fault, from what the ranks found with it and without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.plural import many
from validation.case.steps import made_of
from validation.checks.order import RUN, place
from validation.checks.verdicts import verdicts
from validation.scorecard import peers
from validation.scorecard.trial import Found, Trial

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result

SEEN, ELSEWHERE, MISSED, IDLE, BROKEN = "seen", "seen elsewhere", "missed", "no fault", "broken"
NOWHERE = "nowhere to be put"
"""Beside a known bug: the case has not what the fault changes."""


@dataclass(frozen=True)
class Outcome:
    """One fault in one layout.

    `status` is one of seen (the expected comparison is the first to fail), seen elsewhere (another is), missed (none fails), no
    fault (the ranks computed the same bytes as without it), broken (the run did not finish). `check` is the name of the
    comparison that must be the first to fail and `expected` its title.
    `first` is the title of the first check that fails, `error` its relative error and `limit` what it may be. Of a missed fault
    these two are of the comparison that must fail, and `sound` is the error there without it. `changed` counts the tensors
    whose bytes are others than without the fault. `peers` says by rule whether the fault breaks it; a rule that is broken
    without the fault, too, does not see it. `bug` is the known upstream bug that the case has beside the fault.
    """

    fault: str
    layout: str
    status: str
    check: str
    expected: str
    first: str = ""
    error: float = math.nan
    limit: float = math.nan
    sound: float = math.nan
    failing: int = 0
    changed: int = 0
    says: str = ""
    peers: Mapping[str, bool] = field(default_factory=dict)
    bug: str = ""

    @property
    def caught(self) -> bool:
        """Whether the gate is red."""
        return self.status in (SEEN, ELSEWHERE)


@dataclass(frozen=True)
class Clean:
    """A case without a fault: which of its checks fail, and which peers' rules are broken."""

    case: str
    checks: int
    failing: tuple[str, ...]
    says: str = ""
    peers: Mapping[str, bool] = field(default_factory=dict)


def judge_clean(case: Case, sound: Found) -> Clean:
    """What the checks say of a sound run."""
    broken = sound.result.broken or sound.without.broken
    if broken is not None:
        return Clean(case.name, 0, (), broken.sentence)
    found = list(verdicts(sound.result, sound.without))
    failing = tuple(verdict.line for verdict in found if _fails(verdict))
    return Clean(case.name, len(found), failing, peers=peers.said(sound.result))


def judge(trial: Trial, wrong: Found, sound: Found, clean: Clean | None = None) -> Outcome:
    """Whether the fault is seen, and where. Nothing is decided if the `clean` case fails by itself."""
    case, check = trial.case, trial.fault.first_in(trial.case)
    broken = wrong.result.broken or wrong.without.broken or sound.result.broken or sound.without.broken
    wanted, found = place(case, check), [] if broken else list(verdicts(wrong.result, wrong.without))
    titles = {verdict.place: verdict.title for verdict in found}
    outcome = Outcome(trial.fault.id, trial.layout, BROKEN, check, titles.get(wanted, check), bug=trial.bug)
    if trial.bug and wrong.result.broken is not None and wrong.result.broken.exit_code == ExitCode.USAGE:
        return replace(outcome, status=NOWHERE, says=wrong.result.broken.sentence)
    if broken is not None or wanted == RUN:
        return replace(outcome, says=broken.sentence if broken else f"the case has no {check}")
    if clean is not None and clean.failing:
        return replace(
            outcome, says=f"{many(len(clean.failing), 'check fails', 'checks fail')} without it, first {clean.failing[0]}"
        )
    failing = sorted((verdict for verdict in found if _fails(verdict)), key=lambda verdict: verdict.place)
    changed, alarmed = _changed(wrong.result, sound.result), peers.said(sound.result)
    rules = {name: broken and not alarmed[name] for name, broken in peers.said(wrong.result).items()}
    outcome = replace(outcome, changed=changed, peers=rules)
    if not failing:
        there = next((verdict for verdict in found if verdict.place == wanted), None)
        before = next((verdict for verdict in verdicts(sound.result, sound.without) if verdict.place == wanted), None)
        unseen = replace(outcome, status=MISSED if changed else IDLE, sound=_number(before, "rel_error"))
        return replace(unseen, error=_number(there, "rel_error"), limit=_number(there, "tolerance"))
    first = failing[0]
    return replace(
        outcome,
        # Below fp64 a master is judged before the value that is made of it, and a gradient before its moment.
        status=SEEN if first.place in (wanted, place(case, made_of(check))) else ELSEWHERE,
        first=first.title,
        error=_number(first, "rel_error"),
        limit=_number(first, "tolerance"),
        failing=len(failing),
        says="; ".join(first.reasons),
    )


def _number(verdict: Verdict | None, name: str) -> float:
    """A property of a verdict; no number where it has none."""
    return float(verdict.properties.get(name, math.nan)) if verdict else math.nan


def _fails(verdict: Verdict) -> bool:
    return verdict.status in ("fail", "error")


def _changed(wrong: Result, sound: Result) -> int:
    """How many tensors have other bytes than without the fault, those that are not there in one of the runs among them."""
    names = wrong.pieces.keys() | sound.pieces.keys()
    bytes_of = [
        {name: {(piece.rank, piece.box, piece.digest) for piece in run.pieces.get(name, ())} for name in names}
        for run in (wrong, sound)
    ]
    return sum(bytes_of[0][name] != bytes_of[1][name] for name in names)
