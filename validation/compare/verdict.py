"""Verdicts: whether a measurement holds, and the sentence that says why not (docs/design.md, section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from validation.case.failures import COVERAGE, LIMIT, NOT_FINITE, REPLICAS, UNDECIDED
from validation.case.plural import many
from validation.compare.limits import FLOORS, Limits
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.pattern import as_said

PASS, FAIL, KNOWN, ERROR = "pass", "fail", "known", "error"
UNEVALUATED = "unevaluated"
"""Something else failed, so that there is nothing to judge."""
_WORDS = {UNEVALUATED: "NOT EVALUATED"}


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check. `numbers` is the part of the line after the title; `reasons` say what does not hold.

    `place` orders verdicts by data flow: the run, weights, probes forward, probe gradients and parameter gradients from
    the back. `failure` is the kind of a failure or an error (validation/case/failures.py).
    """

    status: str
    title: str
    numbers: str = ""
    reasons: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    pieces: tuple[PieceReport, ...] = ()
    details: str = ""
    place: tuple[int, int] = (0, 0)
    failure: str = ""

    @property
    def line(self) -> str:
        """The line a user reads: `PASS: Layer 0 Attention Output - Max diff: 0.000123, Avg diff: 0.000032`."""
        said = "; ".join(part for part in (self.numbers, *self.reasons) if part)
        return f"{_WORDS.get(self.status, self.status.upper())}: {self.title}" + (f" - {said}" if said else "")


def judge(measurement: Measurement, title: str, limits: Limits, routes: bool = False, *, replicated: bool = True) -> Verdict:
    """The verdict on one tensor: finite, covered, replicas agree, then within `limits`. Every test fails on NaN.

    What holds is an error where its limits are so wide that they decide nothing.

    `routes` says that the tensor is a map of chosen experts, which reads better as a count. Unless ranks compute the tensor in
    the same way, `replicated`, copies may differ by rounding: each must be within the limits.
    """
    if not measurement.pieces:
        return Verdict(ERROR, title, reasons=(f"no rank reported {measurement.name}",), failure=COVERAGE)
    missing = measurement.missing()
    status, failure = (ERROR, COVERAGE) if missing is not None else (PASS, "")
    reasons = [f"no rank holds {_range(missing)}"] if missing is not None else []
    broken = _broken(measurement, limits, replicated, covered=missing is None)
    if broken:
        status, failure = FAIL, next(iter(broken))
        reasons = [*(sentence for said in broken.values() for sentence in said), *reasons]
    elif limits.undecided:
        status, failure, reasons = ERROR, failure or UNDECIDED, [limits.undecided, *reasons]
    numbers = _numbers(measurement, limits) + (_routes(measurement) if routes else "")
    return Verdict(
        status, title, numbers, tuple(reasons), _properties(measurement, limits), measurement.pieces, failure=failure
    )


def _broken(measurement: Measurement, limits: Limits, replicated: bool, *, covered: bool) -> dict[str, list[str]]:
    """What does not hold, by kind of failure; only kinds of which there is something. `covered`: no part is missing."""
    overlap = covered and measurement.overlaps()
    found = {
        NOT_FINITE: _not_finite(measurement),
        REPLICAS: _replicas(measurement) if replicated else [],
        LIMIT: _too_far(measurement, limits),
        COVERAGE: ["pieces of different ranks overlap in part, which no layout explains"] if overlap else [],
    }
    return {kind: said for kind, said in found.items() if said}


def _not_finite(measurement: Measurement) -> list[str]:
    difference = measurement.difference
    sides = {"candidate": difference.nonfinite_candidate, "reference": difference.nonfinite_reference}
    return [
        f"{many(count, 'element')} of the {side} {'is' if count == 1 else 'are'} not finite"
        for side, count in sides.items()
        if count
    ]


def _replicas(measurement: Measurement) -> list[str]:
    replicas = measurement.disagreeing()
    if not replicas:
        return []
    ranks = ", ".join(str(replica.rank) for replica in replicas)
    return [f"replicas of {_range(replicas[0].box)} on ranks {ranks} differ in their bytes"]


def _too_far(measurement: Measurement, limits: Limits) -> list[str]:
    difference, worst = measurement.difference, measurement.worst
    reasons = []
    if not difference.relative_error <= limits.relative_error:
        reasons.append(f"relative error {difference.relative_error:.2e} > {_limit(limits)}")
    # Elements that are all zero in the reference have no projection; their relative error has already spoken.
    scaled = difference.differing and difference.finite and difference.reference_squares > 0
    if scaled and not abs(difference.projection - 1) <= max(limits.relative_error, 1e-15):
        reasons.append(f"scaled by {as_said(difference.projection)}")
    if limits.max_abs is not None and not difference.max_abs <= limits.max_abs:
        reasons.append(f"max diff {difference.max_abs:.2e} > {limits.max_abs:.2g}")
    if reasons:
        index = ", ".join(str(position) for position in worst.difference.max_index)
        reasons.append(f"worst at [{index}] on rank {worst.rank}")
    return reasons


def _limit(limits: Limits) -> str:
    if limits.floor is None:
        return f"{limits.relative_error:.0e}"
    return f"{limits.relative_error:.1e} ({FLOORS:g}x floor)"


def readable(number: float) -> str:
    """A difference as a reader wants it: 0.000123 where six decimals show it, 4.4e-16 where they do not."""
    return f"{number:.6f}" if number == 0 or 1e-4 <= number < 1e6 else f"{number:.2e}"


def _numbers(measurement: Measurement, limits: Limits) -> str:
    difference = measurement.difference
    numbers = f"Max diff: {readable(difference.max_abs)}, Avg diff: {readable(difference.average)}"
    if difference.differing == 0:
        return f"{numbers} ({many(difference.count, 'element')} equal)"
    if limits.floor:
        return f"{numbers} ({difference.relative_error / limits.floor:.2g}x floor)"
    return f"{numbers} (relative {difference.relative_error:.1e})"


def _routes(measurement: Measurement) -> str:
    """Elements are 1 where an expert is chosen. One that is chosen instead of another makes one route missing and one more."""
    difference = measurement.difference
    if not difference.finite:
        return ""
    missing = round(difference.reference_squares - difference.cross)
    more = difference.differing - missing
    routes = f"of {many(round(difference.reference_squares), 'route')}"
    if missing == more:
        return f", {many(missing, f'{routes} differs', f'{routes} differ')}"
    return f", {missing} {routes} missing, {more} more"


def _properties(measurement: Measurement, limits: Limits) -> dict[str, str]:
    difference, worst = measurement.difference, measurement.worst
    return {
        "max_diff": repr(difference.max_abs),
        "avg_diff": repr(difference.average),
        "rel_error": repr(difference.relative_error),
        "projection": repr(difference.projection),
        "tolerance": repr(limits.relative_error),
        "worst_index": str(list(worst.difference.max_index)),
        "worst_rank": str(worst.rank),
        "ranks": ",".join(str(rank) for rank in measurement.ranks),
        "elements": str(difference.count),
        **({"max_tolerance": repr(limits.max_abs)} if limits.max_abs else {}),
        **({"decided_by": limits.decided_by} if limits.decided_by else {}),
        **_floor_properties(difference.relative_error, limits.floor),
    }


def _floor_properties(error: float, floor: float | None) -> dict[str, str]:
    if floor is None:
        return {}
    ratio = error / floor if floor else (0.0 if error == 0 else math.inf)
    return {"floor": repr(floor), "ratio": repr(ratio)}


def piece_lines(verdict: Verdict) -> tuple[str, ...]:
    """A line for what each rank holds, for `--debug`."""
    return tuple(
        f"rank {piece.rank} {_range(piece.box)}: Max diff: {readable(piece.difference.max_abs)} at "
        f"{list(piece.difference.max_index)}, relative {piece.difference.relative_error:.1e}, bytes {piece.digest}"
        for piece in verdict.pieces
    )


def _range(box: tuple[tuple[int, int], ...]) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"


def near_ties(verdict: Verdict, choice: Measurement, flips: Measurement, score_floor: float) -> Verdict:
    """The verdict on a router's choice that is not the reference's.

    `flips` holds for each token that chose otherwise by how much the reference's scores could be off without choosing
    otherwise, and zero for the others. Within FLOORS times `score_floor`, what rounding does to a score, the flip is a
    near-tie; whatever else is wrong with the choice (not covered, replicas that differ) stays a failure.
    """
    limit, sound = FLOORS * score_floor, not choice.disagreeing() and choice.difference.finite
    covered = bool(flips.pieces) and flips.missing() is None and choice.missing() is None and not choice.overlaps()
    said = "no margins reported"
    if flips.pieces:
        said = (
            f"{many(flips.difference.differing, 'token flips', 'tokens flip')}, margin at most {flips.difference.max_abs:.1e}"
        )
    if sound and covered and flips.difference.max_abs <= limit:
        numbers = f"{verdict.numbers}, near-ties: {said} of {limit:.1e}"
        return replace(verdict, status=PASS, numbers=numbers, reasons=(), failure="")
    return replace(verdict, reasons=(*verdict.reasons, f"{said}, near-ties have {limit:.1e}"))
