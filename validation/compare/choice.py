"""The verdict on what a router chose, by what its own scores and the reference's bias choose."""

from __future__ import annotations

from dataclasses import replace

from validation.case.failures import ROUTES
from validation.case.plural import many
from validation.compare.measurement import Measurement
from validation.compare.verdict import ERROR, FAIL, Verdict


def by_own_scores(verdict: Verdict, by_scores: Measurement, by_bias: Measurement, when: str = "") -> Verdict:
    """The verdict on a router's choice, whether or not it agrees with the reference's.

    `by_scores` holds for each token whose experts are not those that its own scores and the reference's bias choose by how much
    the scores would have to be off for that; `by_bias` for each token that chose by other scores than these by how much they
    are; both zero for the others. Whatever the precision of what came before, these are the very scores that the router had:
    only the bias can be wrong, and what is done with both. `when` says in words which choice it is, if it is another.
    """
    if verdict.status == ERROR:
        return verdict
    if any(not found.pieces or found.missing() is not None for found in (by_scores, by_bias)):
        return _failed(verdict, f"{when}what its own scores and the bias choose is not known of every token")
    if _wrong(by_bias):
        choose = many(by_bias.difference.differing, "token chooses", "tokens choose")
        off = f"off by at most {by_bias.difference.max_abs:.1e}"
        verdict = _failed(verdict, f"{when}{choose} by other scores than their own with the bias ({off})")
    if _wrong(by_scores):
        experts = many(by_scores.difference.differing, "token's experts are", "tokens' experts are")
        margin = f"largest margin {by_scores.difference.max_abs:.1e}"
        verdict = _failed(verdict, f"{when}{experts} not those that their own scores and the bias give ({margin})")
    return verdict


def _wrong(found: Measurement) -> bool:
    return bool(found.difference.differing) or not found.difference.finite


def _failed(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, status=FAIL, reasons=(*verdict.reasons, reason), failure=verdict.failure or ROUTES)
