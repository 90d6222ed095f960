"""What a check may state of a case that infers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from validation.case import failures
from validation.case.inference import FLIPS, GREEDY, GREEDY_TITLE, MARGIN, WITNESS, Inferred, generated, inferred, replicated
from validation.checks import inferring
from validation.checks.judging import Compared, Judging
from validation.checks.order import WEIGHTS
from validation.compare.limits import EXACT, FLOORS, IN_FP64

if TYPE_CHECKING:
    from validation.compare.measurement import Measurement
    from validation.compare.verdict import Verdict


class OfInference(Judging):
    """One case's result, and the statements of its phases."""

    def infers(self, name: str) -> None:
        """A tensor of inference is the reference's at every position, a choice of experts exactly."""
        one = inferred(self.case)[name]
        alike, limits = replicated(self.case), inferring.limits(one)
        asked = Compared(name, one.title, one.probe.shape, limits, one.routes, alike, also=_of_positions)
        self.compare(replace(asked, lastly=Judging.by_own_scores) if one.routes else asked)

    def generates(self) -> None:
        """The token with the largest logit is HuggingFace's, as often as tokens are generated."""
        shape = generated(self.case)
        self.compare(Compared(GREEDY, GREEDY_TITLE, shape, EXACT, replicated=replicated(self.case), also=_near_tokens))

    def witnesses_agree(self) -> None:
        """HuggingFace's logits with its cache are those of its full forward pass, within the limit of a tensor."""
        title = "HuggingFace Cached and Full Logits"
        self.decidable(title, at=WEIGHTS)
        error = self.result.facts[WITNESS]
        right = error <= IN_FP64.relative_error
        said = (
            () if right else (f"relative error {error:.2e} > {IN_FP64.relative_error:g}: HuggingFace cannot be the reference",)
        )
        status, kind = ("pass", "") if right else ("fail", failures.LIMIT)
        self.conclude(status, title, f"relative error {error:.1e}", reasons=said, at=WEIGHTS, failure=kind)


def _of_positions(judging: Judging, asked: Compared, verdict: Verdict) -> Verdict:
    def measured(one: Inferred) -> Measurement:
        return judging.result.measurement(one.name, one.probe.shape)

    def limit(one: Inferred) -> float:
        at = judging.result.facts.get("floor_at", {})
        asked = Compared(one.name, one.title, one.probe.shape, inferring.limits(one))
        return FLOORS * at[one.name] if one.name in at else judging.limits(asked).relative_error

    one = inferred(judging.case)[asked.name]
    if not one.routes:
        verdict = inferring.per_position(verdict, measured(one), limit(one))
    elif judging.case.precision != "fp64":
        verdict = judging.near_ties(asked, verdict)
    return inferring.told(judging.case, asked.name, verdict, measured, limit)


def _near_tokens(judging: Judging, asked: Compared, verdict: Verdict) -> Verdict:
    flips, tokens = (judging.result.measurement(name, asked.shape) for name in (FLIPS + asked.name, asked.name))
    rounding = judging.result.facts.get("score_floor", {}).get(asked.name, MARGIN / FLOORS)
    return inferring.near_tokens(verdict, tokens, flips, rounding)
