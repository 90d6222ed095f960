"""What came of one fault, from what the ranks found with it and without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from validation.case.case import Case
from validation.checks.order import RUN, place
from validation.checks.verdicts import verdicts
from validation.faults.fault import Fault
from validation.scorecard import peers

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result

SEEN, ELSEWHERE, MISSED, IDLE, BROKEN = "seen", "seen elsewhere", "missed", "no fault", "broken"


@dataclass(frozen=True)
class Outcome:
    """One fault in one layout.

    `status` is one of seen (the expected comparison is the first to fail), seen elsewhere (another is), missed (none fails), no
    fault (the ranks computed the same bytes as without it), broken (the run did not finish). `check` is the name of the
    comparison that must be the first to fail and `expected` its title.
    `first` is the title of the first check that fails, `error` its relative error and `limit` what it may be. `changed` counts
    the tensors whose bytes are others than without the fault. `peers` says by rule whether the fault breaks it; a rule that is
    broken without the fault, too, does not see it.
    """

    fault: str
    layout: str
    status: str
    check: str
    expected: str
    first: str = ""
    error: float = math.nan
    limit: float = math.nan
    failing: int = 0
    changed: int = 0
    says: str = ""
    peers: Mapping[str, bool] = field(default_factory=dict)

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


def judge_clean(case: Case, sound: Result) -> Clean:
    """What the checks say of a sound run."""
    if sound.broken is not None:
        return Clean(case.name, 0, (), sound.broken.sentence)
    found = list(verdicts(sound))
    failing = tuple(verdict.line for verdict in found if _fails(verdict))
    return Clean(case.name, len(found), failing, peers=peers.said(sound))


def judge(fault: Fault, layout: str, case: Case, wrong: Result, sound: Result) -> Outcome:
    """Whether the fault is seen, and where."""
    check = fault.first_in(case)
    wanted, found = place(case, check), [] if wrong.broken else list(verdicts(wrong))
    titles = {verdict.place: verdict.title for verdict in found}
    expected = titles.get(wanted, check)
    broken = wrong.broken or sound.broken
    if broken is not None or wanted == RUN:
        says = broken.sentence if broken else f"the case has no {check}"
        return Outcome(fault.id, layout, BROKEN, check, expected, says=says)
    failing = sorted((verdict for verdict in found if _fails(verdict)), key=lambda verdict: verdict.place)
    changed, alarmed = _changed(wrong, sound), peers.said(sound)
    rules = {name: broken and not alarmed[name] for name, broken in peers.said(wrong).items()}
    if not failing:
        status = MISSED if changed else IDLE
        return Outcome(fault.id, layout, status, check, expected, changed=changed, peers=rules)
    first = failing[0]
    return Outcome(
        fault.id,
        layout,
        SEEN if first.place == wanted else ELSEWHERE,
        check,
        expected,
        first.title,
        error=float(first.properties.get("rel_error", math.nan)),
        limit=float(first.properties.get("tolerance", math.nan)),
        failing=len(failing),
        changed=changed,
        says="; ".join(first.reasons),
        peers=rules,
    )


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
