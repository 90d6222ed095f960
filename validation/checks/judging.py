"""How a case's result is judged, whatever a check states of it: limits, known upstream bugs, blame, the verdict."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import pytest

from validation.case import failures
from validation.case.case import Case
from validation.case.latent_norms import GIVEN
from validation.case.parameters import parameters
from validation.case.probes import observed, sees_scores
from validation.case.steps import UNREDUCED
from validation.checks.again import CHANGED, changed
from validation.checks.limiting import limits_of
from validation.checks.localise import localised
from validation.checks.order import RUN, place
from validation.compare.limits import IN_FP64, Limits
from validation.run.known import Known, known_bugs, mended

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.launch import Broken
    from validation.run.result import Result


MODELLING, SHARDING = "modelling", "sharding"


class Runs(Protocol):
    """Where results come from."""

    def result(self, case: Case) -> Result:
        """The case's result; waits for its ranks."""

    def against_single(self, case: Case) -> Result | None:
        """The case compared with the candidate on one rank; None where that cannot be had."""

    def without_bugs(self, case: Case) -> Result:
        """The result of a case from which known upstream bugs have been taken out; waits for its ranks."""

    def again(self, case: Case) -> Result | None:
        """The result of a case with known upstream bugs, run once more as it is; None where it is not."""


def ended_by(result: Result, runs: Runs) -> Known | None:
    """The known bug that has ended the ranks of a case and without which they come to their end: the break decides nothing."""
    bug = next((bug for bug in known_bugs(result.case) if bug.unlimited(result.case)), None)
    if bug is None or result.broken is None:
        return None
    return None if runs.without_bugs(mended(result.case)).broken else bug


@dataclass(frozen=True)
class Compared:
    """A comparison of a tensor: its name in the ranks' reports, the check's title, its shape, and what it may differ by.

    `replicated` says that ranks which hold the same part compute it alike. `also` makes more of the verdict before a known bug
    may excuse it, `lastly` afterwards: that nothing excuses. `routes` says that the tensor is a map of chosen experts.
    """

    name: str
    title: str
    shape: tuple[int, ...]
    limits: Limits | None = None
    routes: bool = False
    replicated: bool = True
    also: Callable[[Judging, Compared, Verdict], Verdict] = lambda judging, asked, verdict: verdict
    lastly: Callable[[Judging, Compared, Verdict], Verdict] = lambda judging, asked, verdict: verdict


@dataclass(frozen=True)
class Stated:
    """What a statement is called; the tensor that it compares ("" for none), the limits where they are known before, and how
    many elements the tensor has.
    """

    title: str
    compared: str = ""
    limits: Limits | None = None
    elements: int = 0


class Judging:
    """One case's result, and what every statement of it is made with.

    Each statement leaves its verdict in `verdict`, which is the line that a user reads and the testcase in JUnit, and
    fails the check unless it holds. The case is run when a statement first asks for its result.
    """

    def __init__(self, case: Case, runs: Runs) -> None:
        self.case, self._runs = case, runs
        self.verdict: Verdict | None = None
        self.stated: Stated | None = None
        """The first statement, if it was made before anything was looked at."""
        self._looked = False

    # Kept, like what follows: thousands of checks ask for it several times each.
    @functools.cached_property
    def result(self) -> Result:
        """The case's result; waits for its ranks. That without its known bugs if one of these has ended them."""
        self._looked = True
        return self._runs.without_bugs(mended(self.case)) if self.ended_by else self._runs.result(self.case)

    @functools.cached_property
    def _bugs(self) -> tuple[Known, ...]:
        """The known bugs of the case."""
        return known_bugs(self.case)

    @functools.cached_property
    def _freeing(self) -> list[Known]:
        """Those that leave any number at all."""
        return [bug for bug in self._bugs if bug.unlimited(self.case)]

    @functools.cached_property
    def ended_by(self) -> Known | None:
        """The known bug that has ended the ranks, if one may: without it they come to their end."""
        return ended_by(self._runs.result(self.case), self._runs) if self._freeing else None

    def broken_without_bugs(self) -> Broken | None:
        """How the run broke that has the case's known bugs taken out, if it has any; it judges the checks behind them."""
        bugs = [bug.id for bug in self._bugs if not bug.given]
        broken = self._mended().result.broken if bugs else None
        said = f"without the known upstream bugs ({', '.join(bugs)})"
        return broken and replace(broken, sentence=f"{said}: {broken.sentence}")

    @functools.cached_property
    def again(self) -> Result | None:
        """The case run once more as it is, if known bugs may excuse checks of it, each by no more than its bug makes."""
        able = not self._freeing and any(not bug.given for bug in self._bugs)
        return self._runs.again(self.case) if able else None

    def broken_again(self) -> Broken | None:
        """How the case broke when it was run once more, if it was."""
        broken = self.again.broken if self.again else None
        return broken and replace(broken, sentence=f"run once more as it is: {broken.sentence}")

    def by_own_scores(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on a choice with what the router's own scores and the reference's bias say of it.

        Nothing excuses that, wherever the scores come from, and no other run of the same choice tells more of it. A fused
        router has no scores that are seen.
        """
        from validation.compare.choice import by_own_scores

        if not sees_scores(self.case):
            return verdict
        tokens = asked.shape[:2]
        by_scores, by_bias = (self.result.measurement(f"{kind}/{asked.name}", tokens) for kind in ("by_scores", "by_bias"))
        return by_own_scores(verdict, by_scores, by_bias)

    def by_next_choice(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on an expert bias that a step leaves with what the choices of the next step say of it.

        Below fp64 these are the reference's, whatever the router chooses itself. Its own must be that of its own scores and of
        this bias, and nothing excuses another.
        """
        from validation.compare.choice import by_own_scores

        layer = parameters(self.case.model)[asked.name.rpartition("/")[2]].layer
        tokens = observed(self.case)[f"layers.{layer}.moe.router.experts"].shape[:2]
        by_scores, by_bias = (self.result.measurement(f"{kind}/{asked.name}", tokens) for kind in ("by_scores", "by_bias"))
        return by_own_scores(verdict, by_scores, by_bias, "in the next step ")

    def near_ties(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on a choice that differs: in a lower precision it may where rounding reaches the reference's margin."""
        from validation.compare.verdict import near_ties

        if self.case.precision == "fp64" or verdict.status != "fail":
            return verdict
        choice = self.result.measurement(asked.name, asked.shape)
        flips = self.result.measurement(f"flips/{asked.name}", asked.shape[:2])
        return near_ties(verdict, choice, flips, self.result.facts["score_floor"][asked.name])

    def compare(self, asked: Compared) -> None:
        """Compare one tensor, and end the check with the verdict."""
        self.states(asked.title, asked.name, asked.limits, math.prod(asked.shape))
        self.decidable(asked.title, at=place(self.case, asked.name))
        verdict = self._judged(asked)
        if self._finite(asked) or self._freeing:
            # No other upstream bug that is known makes a number that is none.
            verdict = self._excused(asked, verdict)
        self._leave(self._completed(asked, verdict))

    def _judged(self, asked: Compared) -> Verdict:
        """The verdict on the ranks' tensor, whatever bugs are known."""
        from validation.compare.verdict import Verdict, judge

        problems = self.result.problems.get(asked.name, {})
        if problems:
            said = tuple(f"rank {rank}: {sentence}" for rank, sentence in sorted(problems.items()))
            return Verdict("fail", asked.title, reasons=said, failure=failures.of_tensor(failures.SHAPE, asked.name))
        measurement = self.result.measurement(asked.name, asked.shape)
        limits = self.limits(asked)
        verdict = judge(measurement, asked.title, limits, asked.routes, replicated=asked.replicated)
        if verdict.failure:
            verdict = replace(verdict, failure=failures.of_tensor(verdict.failure, asked.name, asked.routes))
        verdict = localised(verdict, measurement, self.case, self.result.places, limits.relative_error)
        return asked.also(self, asked, verdict)

    def _finite(self, asked: Compared) -> bool:
        """Whether there is a tensor, and all of it is numbers."""
        pieces = self.result.pieces.get(asked.name, ())
        return asked.name not in self.result.problems and bool(pieces) and all(piece.difference.finite for piece in pieces)

    def _completed(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict with what nothing excuses but freed memory, and its place in the flow of data."""
        freed = any(bug.id == verdict.properties.get("known") for bug in self._freeing)
        last = verdict if freed or asked.name in self.result.problems else asked.lastly(self, asked, verdict)
        if self._freeing and not self.ended_by and last.status == "fail" and verdict.status in ("pass", "known"):
            # The choice came out right, or as another bug makes it, and the scores that it was made by are freed memory.
            last = self._without_bugs(asked, self._freeing[0], last)
        return replace(last, place=place(self.case, asked.name))

    def limits(self, asked: Compared) -> Limits:
        """What a tensor may differ by in the case's precision. Raises LookupError for one without a floor."""
        return asked.limits if asked.limits is not None else limits_of(self.result, asked.name)

    def reduced(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on a final gradient, with what the ranks had before megatron-core reduced it."""
        before = self.result.measurement(UNREDUCED + asked.name.removeprefix("gradients/"), asked.shape)
        if not before.pieces:
            return verdict
        error = before.difference.relative_error
        verdict = replace(verdict, properties={**verdict.properties, "rel_error_before_reduction": repr(error)})
        if verdict.status != "fail" or not before.difference.finite:
            return verdict
        right = error <= self.limits(asked).relative_error
        said = "the reduction is what is wrong" if right else "the backward pass is wrong already"
        return replace(verdict, reasons=(*verdict.reasons, f"before reduction the ranks' sum is off by {error:.1e}: {said}"))

    def _blamed(self, asked: Compared, verdict: Verdict) -> Verdict:
        """A failure, with whether the layout makes it or the model has it on one rank, too.

        A tensor that agrees with HuggingFace agrees with one rank's as well, within twice the limit: only failures ask.
        """
        if verdict.status != "fail" or asked.name.startswith("weights/"):
            return verdict
        if self.case.layout.ranks == 1:
            return _of_kind(verdict, MODELLING, "on one rank: modelling")
        alone = self._runs.against_single(self.case)
        measured = alone.measurement(asked.name, asked.shape) if alone else None
        if measured is None or not measured.pieces or not measured.difference.finite:
            return verdict
        limit = self.limits(asked).relative_error
        if self.case.isolated:
            error = measured.difference.relative_error
            kind, too = (SHARDING, "") if error <= limit else (MODELLING, ", too")
            return _of_kind(verdict, kind, f"{kind}: one rank alone is off by {error:.1e}{too}")
        if not measured.repeats(self.result.measurement(asked.name, asked.shape)):
            return replace(verdict, reasons=(*verdict.reasons, CHANGED))
        error = measured.difference.relative_error
        kind = MODELLING if error <= limit else SHARDING
        return _of_kind(verdict, kind, f"{kind}: off by {error:.1e} from the same model on one rank")

    def _excused(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict, where an upstream bug is known: its failure is expected if it is the bug's, its passing is not."""
        bugs = tuple(bug for bug in self._bugs if bug.given or not self.ended_by)
        excusing = [bug for bug in bugs if bug.excuses(self.case, asked.name)]
        if verdict.status == "fail" and excusing and asked.name not in self.result.problems:
            return self._without_bugs(asked, self._nearest(excusing, verdict), verdict)
        for bug in bugs:
            shown = verdict.status != "pass" or not bug.must_fail(self.case, asked.name)
            if not shown and (bug.given or not self._without_effect(asked)):
                sentence = f"passes, though it shows the known upstream bug {bug.id}: if upstream is mended, remove the entry"
                return replace(verdict, status="fail", reasons=(sentence,), failure=failures.MENDED)
        return self._blamed(asked, verdict)

    def _nearest(self, bugs: Sequence[Known], verdict: Verdict) -> Known:
        """The first of several bugs that can make an error as large as this, else the one that makes the largest."""
        error = float(verdict.properties["rel_error"])
        able = next((bug for bug in bugs if bug.makes(self.case, error)), None)
        return able or max(bugs, key=lambda bug: bug.largest(self.case))

    def _mended(self) -> Judging:
        """The same case without its known bugs, where none is excused."""
        return Judging(mended(self.case), _Mended(self._runs))

    def _without_effect(self, asked: Compared) -> bool:
        """Whether a tensor passes with the known bugs and without them, and is not the same: they do less than rounding here.

        If upstream had mended a bug, nothing would be taken out, or too much.
        """
        without = self._mended()
        if without.result.broken is not None or without._judged(asked).status != "pass":
            return False
        here, there = (one.result.measurement(asked.name, asked.shape) for one in (self, without))
        return not here.repeats(there)

    def _without_bugs(self, asked: Compared, bug: Known, verdict: Verdict) -> Verdict:
        """A failure that a bug may make: known if the same ranks agree once it is taken out, else what they then show.

        Nor is what is larger than anything that the bug makes.
        """
        from validation.compare.verdict import Verdict

        without = self if bug.given else self._mended()
        if without.result.broken is not None:
            said = f"the run without the known upstream bug {bug.id} did not finish"
            return Verdict("unevaluated", asked.title, reasons=(said,))
        there = replace(asked, name=GIVEN + asked.name) if bug.given else asked
        found = without._judged(there)
        if without._finite(there):
            found = without._blamed(there, found)
        found = without._completed(asked, found)
        if found.status != "pass":
            reasons = (*found.reasons, f"and this with the known upstream bug {bug.id} taken out")
            return replace(found, reasons=reasons, properties={**found.properties, "behind": bug.id})
        if not bug.makes(self.case, float(verdict.properties["rel_error"])):
            said = f"more than the known upstream bug {bug.id} makes (at most {bug.largest(self.case):.1e})"
            return self._blamed(asked, replace(verdict, reasons=(*verdict.reasons, said)))
        if self.again and self.again.broken is not None:
            return Verdict("unevaluated", asked.title, reasons=("the same case, run once more, did not finish",))
        if self.again and not bug.given:
            runs = [one.measurement(asked.name, asked.shape) for one in (self.result, self.again)]
            if changed(runs[0], runs[1], self.limits(asked).relative_error):
                return replace(verdict, reasons=(*verdict.reasons, CHANGED))
        error = found.properties["rel_error"]
        excuse = f"known upstream bug: {bug.what} ({bug.link}); with it taken out the relative error is {float(error):.1e}"
        properties = {**verdict.properties, "known": bug.id, "rel_error_without": error}
        return replace(verdict, status="known", reasons=(*verdict.reasons, excuse), properties=properties, failure="")

    def states(self, title: str, compared: str = "", limits: Limits | None = None, elements: int = 0) -> str:
        """Note what the first statement says, before there is a result. Returns the title."""
        if self.case.precision == "fp64" and compared:
            limits = limits or IN_FP64
        if self.stated is None and not self._looked:
            self.stated = Stated(title, compared, limits, elements)
        return title

    def decidable(self, title: str, at: tuple[int, int]) -> None:
        """End the check unless there is something to judge. `at` is its place in the flow of data."""
        self.states(title)
        if self.result.broken is not None:
            self.conclude("unevaluated", title, reasons=("the run did not finish",), at=at)

    def conclude(
        self,
        status: str,
        title: str,
        numbers: str = "",
        *,
        reasons: tuple[str, ...] = (),
        details: str = "",
        at: tuple[int, int] = RUN,
        failure: str = "",
    ) -> None:
        """End the check with a verdict on no tensor. `at` is its place in the flow of data."""
        from validation.compare.verdict import Verdict

        self._leave(Verdict(status, title, numbers, reasons, details=details, place=at, failure=failure))

    def _leave(self, verdict: Verdict) -> None:
        # Of several statements the first, whose title the check has, unless another does not hold.
        if self.verdict is None or self.verdict.status == "pass" != verdict.status:
            self.verdict = verdict
        if verdict.status == "known":
            # As pytest.xfail, without a traceback that nobody sees: pytest would parse source for each of thousands of checks.
            raise pytest.xfail.Exception(verdict.line, pytrace=False)
        if verdict.status == "unevaluated":
            pytest.skip(verdict.line)
        if verdict.status != "pass":
            pytest.fail(verdict.line, pytrace=False)


@dataclass(frozen=True)
class _Mended:
    """Where the results of a case without its known bugs come from."""

    runs: Runs

    def result(self, case: Case) -> Result:
        """That of the ranks from which the bugs have been taken out."""
        return self.runs.without_bugs(case)

    without_bugs = result

    def against_single(self, case: Case) -> Result | None:
        """The same, compared with one rank without the bugs."""
        return self.runs.against_single(case)

    def again(self, case: Case) -> None:
        """Nothing is excused in it."""


def _of_kind(verdict: Verdict, kind: str, reason: str) -> Verdict:
    return replace(verdict, reasons=(*verdict.reasons, reason), properties={**verdict.properties, "kind": kind})
