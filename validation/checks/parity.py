"""The fixture that the checks are written with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import pytest

from validation.case import failures, latent_norms
from validation.case.case import Case
from validation.case.inference import FLIPS, GREEDY, GREEDY_TITLE, MARGIN, WITNESS, Inferred, generated, inferred, replicated
from validation.case.latent_norms import GIVEN
from validation.case.parameters import Parameter, parameters
from validation.case.probes import observed
from validation.case.steps import UNREDUCED, stepped
from validation.checks import inferring
from validation.checks.localise import localised
from validation.checks.order import RUN, WEIGHTS, place
from validation.compare.limits import AFTER_STEPS, EXACT, FLOORS, IN_FP64, Limits, above_floor
from validation.run import cause
from validation.run.known import Known, known_bugs, mended

if TYPE_CHECKING:
    from validation.compare.measurement import Measurement
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
    also: Callable[[Parity, Compared, Verdict], Verdict] = lambda parity, asked, verdict: verdict
    lastly: Callable[[Parity, Compared, Verdict], Verdict] = lambda parity, asked, verdict: verdict


@dataclass(frozen=True)
class Stated:
    """What a statement is called; the tensor that it compares ("" for none), and the limits where they are known before."""

    title: str
    compared: str = ""
    limits: Limits | None = None


class Parity:
    """One case's result, and the statements that a check may make of it.

    Each statement leaves its verdict in `verdict`, which is the line that a user reads and the testcase in JUnit, and
    fails the check unless it holds. The case is run when a statement first asks for its result.
    """

    def __init__(self, case: Case, runs: Runs) -> None:
        self.case, self._runs = case, runs
        self.verdict: Verdict | None = None
        self.stated: Stated | None = None
        """The first statement."""

    @property
    def result(self) -> Result:
        """The case's result; waits for its ranks. That without its known bugs if one of these has ended them."""
        return self._runs.without_bugs(mended(self.case)) if self._ended_by else self._runs.result(self.case)

    @functools.cached_property
    def _ended_by(self) -> Known | None:
        """The known bug that has ended the ranks, if one may: without it they come to their end."""
        bug = next((bug for bug in known_bugs(self.case) if bug.unlimited(self.case)), None)
        if bug is None or self._runs.result(self.case).broken is None:
            return None
        return None if self._runs.without_bugs(mended(self.case)).broken else bug

    def finished(self) -> None:
        """The ranks ran to their end."""
        title = self._states("Every rank finishes")
        if bug := self._ended_by:
            said = self._runs.result(self.case).broken
            excuse = f"known upstream bug: {bug.what} ({bug.link}); without it they finish, and all checks are of that run"
            self._conclude("known", title, reasons=(said.sentence if said else "", excuse))
        broken = self.result.broken or self._broken_without_bugs()
        if broken is None:
            ranks = self.case.layout.ranks
            over = max((memory["peak"] - memory["baseline"]) >> 20 for memory in self.result.memory)
            counted = f"{ranks} rank{'s' if ranks > 1 else ''} in {self.result.seconds:.1f} s"
            on_gpu = max(memory["device_peak"] >> 20 for memory in self.result.memory)
            gpu = f", {on_gpu} MiB on a GPU" if on_gpu else ""
            self._conclude("pass", title, f"{counted}, at most {over} MiB over the imports{gpu}")
        else:
            kind = cause.failure(broken.exit_code, broken.sentence)
            self._conclude("error", title, reasons=(broken.sentence,), details=broken.stacks, failure=kind)

    def _broken_without_bugs(self) -> Broken | None:
        """How the run broke that has the case's known bugs taken out, if it has any; it judges the checks behind them."""
        bugs = [bug.id for bug in known_bugs(self.case) if not bug.given]
        broken = self._mended().result.broken if bugs else None
        if broken is None:
            return None
        return replace(broken, sentence=f"without the known upstream bugs ({', '.join(bugs)}): {broken.sentence}")

    def agrees(self, probe: str, limits: Limits | None = None) -> None:
        """The candidate's tensor at `probe` is the reference's, within the precision's limits (or those given)."""
        known = observed(self.case)
        if probe not in known:
            raise LookupError(f"{probe} is not a probe of this case; known are {', '.join(known)}")
        self._compare(Compared(probe, known[probe].title, known[probe].shape, limits))

    def routes_agree(self, probe: str) -> None:
        """Every token goes to the reference's experts, near-ties of a lower precision aside, and to those of its own scores."""
        known = observed(self.case)[probe]
        self._compare(
            Compared(
                probe,
                known.title,
                known.shape,
                EXACT,
                routes=True,
                also=Parity._near_ties,
                lastly=Parity._by_own_scores,
            )
        )

    def keys_agree(self, probe: str) -> None:
        """Every query attends to the keys that the reference's indexer chooses, near-ties of a lower precision aside."""
        known = observed(self.case)[probe]
        self._compare(Compared(probe, known.title, known.shape, EXACT, routes=True, also=Parity._near_ties))

    def _by_own_scores(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on a choice with what the router's own scores and the reference's bias say of it.

        Nothing excuses that, wherever the scores come from, and no other run of the same choice tells more of it.
        """
        from validation.compare.choice import by_own_scores

        tokens = asked.shape[:2]
        by_scores, by_bias = (self.result.measurement(f"{kind}/{asked.name}", tokens) for kind in ("by_scores", "by_bias"))
        return by_own_scores(verdict, by_scores, by_bias)

    def _near_ties(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on a choice that differs: in a lower precision it may where rounding reaches the reference's margin."""
        from validation.compare.verdict import near_ties

        if self.case.precision == "fp64" or verdict.status != "fail":
            return verdict
        choice = self.result.measurement(asked.name, asked.shape)
        flips = self.result.measurement(f"flips/{asked.name}", asked.shape[:2])
        return near_ties(verdict, choice, flips, self.result.facts["score_floor"][asked.name])

    def infers(self, name: str) -> None:
        """A tensor of inference is the reference's at every position, a choice of experts exactly."""
        one = inferred(self.case)[name]
        alike, limits = replicated(self.case), inferring.limits(one)
        asked = Compared(name, one.title, one.probe.shape, limits, one.routes, alike, also=Parity._of_positions)
        self._compare(replace(asked, lastly=Parity._by_own_scores) if one.routes else asked)

    def _of_positions(self, asked: Compared, verdict: Verdict) -> Verdict:
        def measured(one: Inferred) -> Measurement:
            return self.result.measurement(one.name, one.probe.shape)

        def limit(one: Inferred) -> float:
            at = self.result.facts.get("floor_at", {})
            asked = Compared(one.name, one.title, one.probe.shape, inferring.limits(one))
            return FLOORS * at[one.name] if one.name in at else self._limits(asked).relative_error

        one = inferred(self.case)[asked.name]
        if not one.routes:
            verdict = inferring.per_position(verdict, measured(one), limit(one))
        elif self.case.precision != "fp64":
            verdict = self._near_ties(asked, verdict)
        return inferring.told(self.case, asked.name, verdict, measured, limit)

    def generates(self) -> None:
        """The token with the largest logit is HuggingFace's, as often as tokens are generated."""
        shape = generated(self.case)
        self._compare(Compared(GREEDY, GREEDY_TITLE, shape, EXACT, replicated=replicated(self.case), also=Parity._near_tokens))

    def _near_tokens(self, asked: Compared, verdict: Verdict) -> Verdict:
        flips, tokens = (self.result.measurement(name, asked.shape) for name in (FLIPS + asked.name, asked.name))
        rounding = self.result.facts.get("score_floor", {}).get(asked.name, MARGIN / FLOORS)
        return inferring.near_tokens(verdict, tokens, flips, rounding)

    def witnesses_agree(self) -> None:
        """HuggingFace's logits with its cache are those of its full forward pass, within the limit of a tensor."""
        title = "HuggingFace Cached and Full Logits"
        self._decidable(title, at=WEIGHTS)
        error = self.result.facts[WITNESS]
        right = error <= IN_FP64.relative_error
        said = (
            () if right else (f"relative error {error:.2e} > {IN_FP64.relative_error:g}: HuggingFace cannot be the reference",)
        )
        status, kind = ("pass", "") if right else ("fail", failures.LIMIT)
        self._conclude(status, title, f"relative error {error:.1e}", reasons=said, at=WEIGHTS, failure=kind)

    def weight_is_equal(self, parameter: str) -> None:
        """What the ranks hold, read back into the checkpoint's layout, is the checkpoint's to the bit."""
        known = parameters(self.case.model)[parameter]
        self._compare(Compared(f"weights/{parameter}", known.title, known.shape, EXACT))

    def latent_epsilon_agrees(self) -> None:
        """Megatron-Core builds the latents' norms with the reference's epsilon; where it does not, they have been given it."""
        self._compare(Compared(latent_norms.NAME, latent_norms.TITLE, latent_norms.shape(self.case.model), EXACT))

    def probe_gradient_agrees(self, probe: str) -> None:
        """The gradient that reaches `probe` is the reference's."""
        known = observed(self.case)[probe]
        self._compare(Compared(f"probe_gradients/{probe}", f"{known.title} Gradient", known.shape))

    def gradient_agrees(self, parameter: str) -> None:
        """The gradient after finalize_model_grads is the reference's, and the same on every rank that holds it."""
        known: Parameter = parameters(self.case.model)[parameter]
        self._compare(
            Compared(
                f"gradients/{parameter}",
                f"{known.title} Gradient",
                known.shape,
                also=Parity._reduced,
            )
        )

    def step_agrees(self, key: str) -> None:
        """What an optimizer step leaves is what torch's optimizer leaves on the HuggingFace model."""
        known = stepped(self.case)[key]
        self._compare(Compared(known.name, known.title, known.shape, AFTER_STEPS if self.case.precision == "fp64" else None))

    def rates_agree(self, key: str) -> None:
        """The rates that a step multiplies with are those of the formula, whatever the precision is."""
        known = stepped(self.case)[key]
        self._compare(Compared(known.name, known.title, known.shape, IN_FP64))

    def every_tensor_is_set(self) -> None:
        """No Megatron parameter or persistent buffer holds an element that the checkpoint did not set."""
        title = "Every Megatron tensor set"
        self._decidable(title, at=WEIGHTS)
        known = {f"weights/{name}" for name in parameters(self.case.model)}
        unset = {
            f"{sentence} (rank {', '.join(map(str, sorted(found)))})"
            for name, found in self.result.problems.items()
            if name.startswith("weights/") and name not in known
            for sentence in set(found.values())
        }
        reasons = tuple(sorted(unset))
        self._of_all_weights(title, "none left NaN", reasons)

    def every_key_is_used(self) -> None:
        """No tensor of the checkpoint is left over (those of other layers and of the MTP layer are set aside, counted)."""
        title = "Every checkpoint key used"
        self._decidable(title, at=WEIGHTS)
        unused, aside = self.result.facts["unused"], self.result.facts["set_aside"]
        numbers = f"{self.result.facts['keys']} keys" + "".join(f", {count} set aside: {why}" for why, count in aside.items())
        reasons = tuple(f"no parameter takes {key}" for key in unused[:3])
        reasons += (f"and {len(unused) - 3} more",) if len(unused) > 3 else ()
        self._of_all_weights(title, numbers, reasons)

    def _of_all_weights(self, title: str, numbers: str, reasons: tuple[str, ...]) -> None:
        status, kind = ("fail", failures.WEIGHTS) if reasons else ("pass", "")
        self._conclude(status, title, numbers, reasons=reasons, at=WEIGHTS, failure=kind)

    def _compare(self, asked: Compared) -> None:
        self._states(asked.title, asked.name, asked.limits)
        self._decidable(asked.title, at=place(self.case, asked.name))
        verdict = self._judged(asked)
        if self._finite(asked) or any(bug.unlimited(self.case) for bug in known_bugs(self.case)):
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
        limits = self._limits(asked)
        verdict = judge(measurement, asked.title, limits, asked.routes, replicated=asked.replicated)
        verdict = replace(verdict, failure=failures.of_tensor(verdict.failure, asked.name, asked.routes))
        verdict = localised(verdict, measurement, self.case, self.result.places, limits.relative_error)
        return asked.also(self, asked, verdict)

    def _finite(self, asked: Compared) -> bool:
        """Whether there is a tensor, and all of it is numbers."""
        measurement = self.result.measurement(asked.name, asked.shape)
        return asked.name not in self.result.problems and bool(measurement.pieces) and measurement.difference.finite

    def _completed(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict with what nothing excuses but freed memory, and its place in the flow of data."""
        freeing = [bug for bug in known_bugs(self.case) if bug.unlimited(self.case)]
        freed = any(bug.id == verdict.properties.get("known") for bug in freeing)
        last = verdict if freed or asked.name in self.result.problems else asked.lastly(self, asked, verdict)
        if freeing and not self._ended_by and last.status == "fail" and verdict.status == "pass":
            # The choice came out right, or within rounding, and the scores that it was made by are freed memory.
            last = self._without_bugs(asked, freeing[0], last)
        return replace(last, place=place(self.case, asked.name))

    def _limits(self, asked: Compared) -> Limits:
        """What a tensor may differ by in the case's precision. Raises LookupError for one without a floor."""
        case, floors, name = self.case, self.result.facts.get("floor", {}), asked.name
        if asked.limits is not None:
            return asked.limits
        if case.precision == "fp64":
            return IN_FP64
        if name not in floors:
            raise LookupError(f"the reference has no floor for {name}; give the check limits of its own")
        magnitude, fp8 = self.result.facts["magnitude"][name], case.training.fp8 != "none"
        return above_floor(floors[name], case.precision, magnitude, fp8=fp8, isolated=case.isolated)

    def _reduced(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict on a final gradient, with what the ranks had before megatron-core reduced it."""
        before = self.result.measurement(UNREDUCED + asked.name.removeprefix("gradients/"), asked.shape)
        if not before.pieces:
            return verdict
        error = before.difference.relative_error
        verdict = replace(verdict, properties={**verdict.properties, "rel_error_before_reduction": repr(error)})
        if verdict.status != "fail" or not before.difference.finite:
            return verdict
        right = error <= self._limits(asked).relative_error
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
        limit = self._limits(asked).relative_error
        if self.case.isolated:
            error = measured.difference.relative_error
            kind, too = (SHARDING, "") if error <= limit else (MODELLING, ", too")
            return _of_kind(verdict, kind, f"{kind}: one rank alone is off by {error:.1e}{too}")
        if not measured.repeats(self.result.measurement(asked.name, asked.shape)):
            said = "not repeatable: run again, other bytes come out (a race, or something random)"
            return replace(verdict, reasons=(*verdict.reasons, said))
        error = measured.difference.relative_error
        kind = MODELLING if error <= limit else SHARDING
        return _of_kind(verdict, kind, f"{kind}: off by {error:.1e} from the same model on one rank")

    def _excused(self, asked: Compared, verdict: Verdict) -> Verdict:
        """The verdict, where an upstream bug is known: its failure is expected if it is the bug's, its passing is not."""
        bugs = tuple(bug for bug in known_bugs(self.case) if bug.given or not self._ended_by)
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

    def _mended(self) -> Parity:
        """The same case without its known bugs, where none is excused."""
        return Parity(mended(self.case), _Mended(self._runs))

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
        error = found.properties["rel_error"]
        excuse = f"known upstream bug: {bug.what} ({bug.link}); with it taken out the relative error is {float(error):.1e}"
        properties = {**verdict.properties, "known": bug.id, "rel_error_without": error}
        return replace(verdict, status="known", reasons=(*verdict.reasons, excuse), properties=properties, failure="")

    def _states(self, title: str, compared: str = "", limits: Limits | None = None) -> str:
        if self.case.precision == "fp64" and compared:
            limits = limits or IN_FP64
        self.stated = self.stated or Stated(title, compared, limits)
        return title

    def _decidable(self, title: str, at: tuple[int, int]) -> None:
        """End the check unless there is something to judge. `at` is its place in the flow of data."""
        self._states(title)
        if self.result.broken is not None:
            self._conclude("unevaluated", title, reasons=("the run did not finish",), at=at)

    def _conclude(
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
        from validation.compare.verdict import Verdict

        self._leave(Verdict(status, title, numbers, reasons, details=details, place=at, failure=failure))

    def _leave(self, verdict: Verdict) -> None:
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


def _of_kind(verdict: Verdict, kind: str, reason: str) -> Verdict:
    return replace(verdict, reasons=(*verdict.reasons, reason), properties={**verdict.properties, "kind": kind})
