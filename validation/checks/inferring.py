"""What a failing check of inference says more: where the first error is, and whether the model has it without a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from validation.case.case import Case
from validation.case.inference import MARGIN, TITLES, Inferred, inferred, token, witness
from validation.case.plural import many
from validation.compare.limits import EXACT, FLOORS, Limits

if TYPE_CHECKING:
    from validation.compare.measurement import Measurement, PieceReport
    from validation.compare.verdict import Verdict

Measured = Callable[[Inferred], "Measurement"]
Limit = Callable[[Inferred], float]
"""The relative error that a tensor may have: of decoded ones, that each position may have."""
CACHED, UNCACHED = "cached", "uncached"


def limits(one: Inferred) -> Limits | None:
    """What a tensor may differ by: a choice of experts in nothing, others in what the precision says."""
    return EXACT if one.routes else None


def told(case: Case, name: str, verdict: Verdict, measured: Measured, limit: Limit) -> Verdict:
    """A failure with the first position of the case that is wrong, and what the candidate's own full forward says.

    Other verdicts stay as they are.
    """
    if verdict.status != "fail":
        return verdict
    one = inferred(case)[name]
    there = inferred(case).get(witness(one))
    own = measured(there) if there else None
    return _witnessed(_located(case, one, verdict, measured, limit), own, limit(there) if there else 0.0)


def near_tokens(verdict: Verdict, tokens: Measurement, flips: Measurement, rounding: float = MARGIN / FLOORS) -> Verdict:
    """The verdict on generated tokens with how many differ, and a pass if rounding decides each of them.

    `flips` holds, where the candidate would take another token, by how much HuggingFace prefers its own; `rounding` is what it
    does to a logit.
    """
    if verdict.status != "fail":
        return replace(verdict, numbers=f"{many(tokens.difference.count, 'token')}, all of them HuggingFace's")
    from validation.compare.verdict import near_ties

    found = near_ties(verdict, tokens, flips, rounding)
    if found.status == "pass":
        return found
    start = min((piece.box[1][0] for piece in tokens.pieces if piece.difference.differing), default=0)
    return replace(found, reasons=(*found.reasons, f"first other token: number {start} behind the prompt"))


def per_position(verdict: Verdict, measurement: Measurement, limit: float) -> Verdict:
    """The verdict, a failure if one position alone is beyond the limit: in the whole tensor it may be too little to see."""
    worst = max(measurement.pieces, key=_error, default=None)
    if verdict.status != "pass" or worst is None or _error(worst) <= limit:
        return verdict
    from validation.case.failures import LIMIT

    said = f"at position {worst.box[1][0]} alone the relative error is {_error(worst):.1e} > {limit:g}"
    return replace(verdict, status="fail", reasons=(*verdict.reasons, said), failure=LIMIT)


def _error(piece: PieceReport) -> float:
    return piece.difference.relative_error


def _located(case: Case, asked: Inferred, verdict: Verdict, measured: Measured, limit: Limit) -> Verdict:
    wrong = min(_wrong(case, asked, measured, limit), default=None)
    if wrong is None:
        return verdict
    _, position, place = wrong
    one = list(inferred(case).values())[place]
    where = f"{TITLES[one.phase].lower()} position {position}, {one.probe.title}"
    said = f"first wrong: {where} ({token(one, position)})"
    return replace(verdict, reasons=(*verdict.reasons, said), properties={**verdict.properties, "first_wrong": where})


def _wrong(case: Case, asked: Inferred, measured: Measured, limit: Limit) -> Iterator[tuple[int, int, int]]:
    """Phase, position in it and place in the flow of data of the first error in each tensor that has one.

    Below fp64 rounding may turn a choice of experts over: only one that is asked about, and has failed, tells anything.
    """
    order = list(TITLES)
    for place, one in enumerate(inferred(case).values()):
        if one.routes and case.precision != "fp64" and one is not asked:
            continue
        allowed = limit(one)
        starts = [_start(piece) for piece in measured(one).pieces if not _error(piece) <= allowed]
        if starts:
            yield order.index(one.phase), min(starts), place


def _start(piece: PieceReport) -> int:
    """The first position of a piece that is wrong: its first where nobody looked closer."""
    return piece.extent.spans[1].start if piece.extent and len(piece.extent.spans) > 1 else piece.box[1][0]


def _witnessed(verdict: Verdict, own: Measurement | None, limit: float) -> Verdict:
    """The failure of a cached phase with what the candidate's `own` full forward says of the same tensor."""
    if own is None or not own.pieces:
        return verdict
    error = own.difference.relative_error
    kind = CACHED if error <= limit else UNCACHED
    said = f"{kind}: its own full forward is off by {error:.1e}" + ("" if kind == CACHED else ", too")
    return replace(verdict, reasons=(*verdict.reasons, said), properties={**verdict.properties, "cache": kind})
