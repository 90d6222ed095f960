"""The second judgement, without a known upstream bug: what is asked of which run, and every word of what comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.probes import observed
from validation.case.training import Training
from validation.checks import judging as judging_
from validation.checks.again import CHANGED
from validation.checks.order import place
from validation.checks.parity import Parity
from validation.compare.difference import measure
from validation.compare.limits import Limits
from validation.compare.measurement import PieceReport
from validation.compare.piece import whole
from validation.compare.verdict import Verdict
from validation.run.known import Known, known_bugs, mended
from validation.run.launch import Broken
from validation.run.result import Result

MODEL = replace(TINY.model, num_hidden_layers=2)
CASE = Case("tiny", MODEL, Layout.parse("tp2"), "fp64", "local-stock", "gloo", 1, 2, 1, 8, training=Training(steps=1))
BUG = known_bugs(CASE)[0]
WEIGHT = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
NAME = f"gradients/{WEIGHT}"
CHOICE = "layers.1.moe.router.experts"
State = Callable[[Parity], None]


class Runs:
    """Results of the case, of the case without its bugs, of that on one rank, and of the first run once more.

    Notes what is asked for.
    """

    def __init__(
        self, first: Result, second: Result | None = None, single: Result | None = None, again: Result | None = None
    ) -> None:
        self._first, self._second, self._single, self._again = first, second, single, again
        self.asked: list[str] = []

    def result(self, case: Case) -> Result:
        """That with the bugs."""
        assert case == CASE
        return self._first

    def without_bugs(self, case: Case) -> Result:
        """That without."""
        assert case == mended(CASE)
        self.asked.append("without")
        assert self._second is not None
        return self._second

    def again(self, case: Case) -> Result | None:
        """That with the bugs, once more."""
        assert case == CASE
        return self._again

    def against_single(self, case: Case) -> Result | None:
        """That of one rank; says of which case."""
        self.asked.append("single, mended" if case.mended else "single")
        return self._single


def off(shape: tuple[int, ...], error: float = 0.0, digest: str = "a") -> PieceReport:
    """A whole tensor whose first element is off."""
    right = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wrong = right.clone()
    wrong.view(-1)[0] += error * right.norm()
    return PieceReport(0, whole(shape), measure(wrong, right, whole(shape)), digest)


def result(error: float | None = 0.0, of: Case = CASE, digest: str = "a", **given: Any) -> Result:
    """A gradient that is off by this; None for one that no rank reports."""
    shape = parameters(MODEL)[WEIGHT].shape
    pieces = given.pop("pieces", {} if error is None else {NAME: (off(shape, error, digest),)})
    return Result(of, 1.0, {}, pieces=pieces, **given)


def without(error: float | None = 0.0, **given: Any) -> Result:
    return result(error, mended(CASE), **given)


Ended = type[BaseException] | None


def concluded(runs: Runs, state: State = lambda parity: parity.gradient_agrees(WEIGHT)) -> tuple[Verdict, Ended]:
    """The verdict of a statement, and how the check ended: with the verdict's line."""
    parity, outcome = Parity(CASE, runs), None
    try:
        state(parity)
    except (pytest.fail.Exception, pytest.xfail.Exception, pytest.skip.Exception) as ended:
        outcome = ended
    assert parity.verdict is not None
    assert outcome is None or str(outcome) == parity.verdict.line
    return parity.verdict, type(outcome) if outcome else None


def test_what_passes_without_the_bug_is_known_with_both_numbers() -> None:
    """The reasons of the failure come first; title and place are the check's; nobody is asked of one rank."""
    runs = Runs(result(0.5), without(1e-12))
    found, ended = concluded(runs)
    assert (found.status, ended, set(runs.asked)) == ("known", pytest.xfail.Exception, {"without"})
    assert found.reasons[0].startswith("relative error 5.")
    assert found.reasons[-1] == f"known upstream bug: {BUG.what} ({BUG.link}); with it taken out the relative error is 1.0e-12"
    assert (found.title, found.place) == (f"{parameters(MODEL)[WEIGHT].title} Gradient", place(CASE, NAME))
    assert float(found.properties["rel_error"]) == pytest.approx(0.5, rel=0.2)
    assert float(found.properties["rel_error_without"]) == pytest.approx(1e-12, rel=0.2)
    assert (found.properties["known"], "behind" in found.properties, "kind" in found.properties) == (BUG.id, False, False)
    assert found.failure == ""  # what is excused has failed in no way


@pytest.mark.parametrize(
    ("second", "status"),
    [
        (result(0.5), "known"),
        (result(0.5, digest="b"), "known"),
        (result(0.5 + 1e-11, digest="b"), "known"),
        (result(0.5 + 1e-9, digest="b"), "fail"),
        (result(0.4, digest="b"), "fail"),
        (result(-0.5, digest="b"), "fail"),
        (result(math.nan, digest="b"), "fail"),
        (result(0.0, digest="b"), "fail"),
        (result(None), "fail"),
        (result(0.5, broken=Broken(1, "rank 1 was killed", "the stacks")), "unevaluated"),
    ],
)
def test_what_comes_out_otherwise_in_the_same_case_is_no_bug_s(second: Result, status: str) -> None:
    """An error that the first run alone has is not excused with the bug's. Rounding may differ from run to run."""
    found, _ = concluded(Runs(result(0.5), without(1e-12), again=second))
    assert found.status == status
    if status == "fail":
        assert (found.reasons[-1], found.failure) == (CHANGED, "limit")


def test_what_is_run_once_more_must_finish_too() -> None:
    again = result(0.5, broken=Broken(1, "rank 1 was killed", "the stacks"))
    found, _ = concluded(Runs(result(0.5), without(1e-12), again=again), lambda parity: parity.finished())
    assert (found.status, found.reasons) == ("error", ("run once more as it is: rank 1 was killed",))


@pytest.mark.parametrize(
    ("single", "kind", "said"),
    [
        (0.0, "modelling", "modelling: off by 0.0e+00 from the same model on one rank"),
        (0.25, "sharding", "sharding: off by "),
    ],
)
def test_what_fails_without_the_bug_is_judged_by_one_rank_without_it(single: float, kind: str, said: str) -> None:
    """As any failure; that a bug was taken out is the last thing said."""
    runs = Runs(result(0.5), without(0.25), without(single))
    found, ended = concluded(runs)
    assert (found.status, ended, found.properties["kind"]) == ("fail", pytest.fail.Exception, kind)
    assert [one for one in runs.asked if one != "without"] == ["single, mended"]
    assert found.reasons[0].startswith("relative error 2.")
    assert found.reasons[-2].startswith(said)
    assert found.reasons[-1] == f"and this with the known upstream bug {BUG.id} taken out"
    assert (found.properties["behind"], found.place) == (BUG.id, place(CASE, NAME))
    assert "known" not in found.properties


@pytest.mark.parametrize(
    ("second", "status"),
    [
        pytest.param(without(None), "error", id="nobody reports it"),
        pytest.param(without(math.nan), "fail", id="it is no number"),
        pytest.param(without(problems={NAME: {1: "shape (1,)"}}), "fail", id="a rank could not compare it"),
    ],
)
def test_what_is_no_tensor_without_the_bug_is_not_blamed(second: Result, status: str) -> None:
    """And no pass: there is nothing to compare with one rank."""
    runs = Runs(result(0.5), second, without(0.0))
    found, ended = concluded(runs)
    assert (found.status, ended, found.properties["behind"]) == (status, pytest.fail.Exception, BUG.id)
    assert set(runs.asked) == {"without"}


def test_what_a_rank_could_not_compare_without_the_bug_is_said_in_its_words() -> None:
    second = without(problems={NAME: {1: "shape (1,)"}})
    found, _ = concluded(Runs(result(0.5), second))
    assert found.reasons == ("rank 1: shape (1,)", f"and this with the known upstream bug {BUG.id} taken out")


def test_behind_a_second_run_that_broke_nothing_is_evaluated() -> None:
    """Though the tensors may be there."""
    second = without(0.0, broken=Broken(1, "rank 1 was killed by SIGKILL", "the stacks"))
    found, ended = concluded(Runs(result(0.5), second))
    assert (found.status, ended, found.details) == ("unevaluated", pytest.skip.Exception, "")
    assert found.title == f"{parameters(MODEL)[WEIGHT].title} Gradient"
    assert found.reasons == (f"the run without the known upstream bug {BUG.id} did not finish",)
    assert found.place == place(CASE, NAME)


@pytest.mark.parametrize(
    ("first", "status"),
    [
        pytest.param(result(None), "error", id="nobody reports it"),
        pytest.param(result(math.nan), "fail", id="it is no number"),
        pytest.param(result(0.5, problems={NAME: {1: "shape (1,)"}}), "fail", id="a rank could not compare it"),
    ],
)
def test_a_bug_excuses_wrong_numbers_and_nothing_else(first: Result, status: str) -> None:
    """The second run is not asked, nor is one rank."""
    runs = Runs(first, without(0.0), without(0.0))
    found, ended = concluded(runs)
    assert (found.status, ended, runs.asked) == (status, pytest.fail.Exception, [])


def test_a_check_that_must_show_the_bug_and_passes_says_what_to_do() -> None:
    """In its one reason."""
    found, ended = concluded(Runs(result(0.0), without()))
    assert (found.status, found.failure, ended) == ("fail", "upstream mended", pytest.fail.Exception)
    assert concluded(Runs(result(0.0), without(digest="b")))[0].status == "pass"  # the bug does less than rounding here
    assert concluded(Runs(result(0.0), without(0.5, digest="b")))[0].status == "fail"  # taken out though it is mended
    assert found.reasons == (
        f"passes, though it shows the known upstream bug {BUG.id}: if upstream is mended, remove the entry",
    )


def listed(monkeypatch: pytest.MonkeyPatch, *bugs: Known) -> None:
    """These are the known bugs of every case."""
    monkeypatch.setattr(judging_, "known_bugs", lambda case: bugs)


def of(name: str, *checks: str, spoils: tuple[str, ...] = ()) -> Known:
    return replace(BUG, id=name, what=f"what {name} is", checks=checks, spoils=spoils, keeps=())


def test_of_several_bugs_the_one_whose_check_it_is_excuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they are listed; where none is, the failure stays and is blamed."""
    listed(monkeypatch, of("other", "gradients/lm_head.weight"), of("this", NAME))
    assert concluded(Runs(result(0.5), without()))[0].properties["known"] == "this"
    assert (
        concluded(Runs(result(0.0), without()))[0].reasons[0].startswith("passes, though it shows the known upstream bug this")
    )
    listed(monkeypatch, of("other", "gradients/lm_head.weight"))
    runs = Runs(result(0.5), without(), result(0.5))
    assert (concluded(runs)[0].status, runs.asked) == ("fail", ["single"])
    assert concluded(Runs(result(0.0)))[0].status == "pass"


def test_what_a_bug_only_spoils_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is known where it fails."""
    listed(monkeypatch, of("this", "gradients/lm_head.weight", spoils=("gradients/*",)))
    assert concluded(Runs(result(0.0)))[0].status == "pass"
    assert concluded(Runs(result(0.5), without()))[0].status == "known"


def chosen(tokens: int, wrong_by: float, of: Case) -> Result:
    """A choice in which so many tokens chose otherwise, and that is off by this from what its own scores say."""
    shape = observed(CASE)[CHOICE].shape
    right = torch.zeros(shape, dtype=torch.bool)
    right[..., :2] = True
    choice = right.clone()
    choice[0, :tokens, 1], choice[0, :tokens, 5] = False, True
    box = whole(shape[:2])
    margin = torch.zeros(shape[:2], dtype=torch.float64)
    margin[0, 0] = wrong_by
    own = PieceReport(0, box, measure(margin, margin * 0, box), "a")
    pieces = {
        CHOICE: (PieceReport(0, whole(shape), measure(choice, right, whole(shape)), "a"),),
        **{f"{kind}/{CHOICE}": (own,) for kind in ("by_scores", "by_bias")},
    }
    return result(of=of, pieces=pieces)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(0.0, 0.0, "known"), (1e-3, 0.0, "fail"), (0.0, 1e-3, "fail"), (1e-3, 1e-3, "fail")],
)
def test_no_bug_excuses_a_choice_that_is_not_that_of_its_own_scores(
    monkeypatch: pytest.MonkeyPatch, first: float, second: float, status: str
) -> None:
    """Neither with the bug nor with it taken out."""
    listed(monkeypatch, of("this", CHOICE))
    runs = Runs(chosen(3, first, CASE), chosen(0, second, mended(CASE)))
    assert concluded(runs, lambda parity: parity.routes_agree(CHOICE))[0].status == status


def test_a_check_s_own_limits_hold_without_the_bug_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a statement that brings limits; what is just above them fails in the second run."""
    probe = "layers.1.input_norm"
    listed(monkeypatch, of("this", probe))
    shape = observed(CASE)[probe].shape
    for error, status in ((0.9e-3, "known"), (1.3e-3, "fail")):
        first, second = ({probe: (off(shape, number),)} for number in (0.5, error))
        runs = Runs(result(pieces=first), without(pieces=second))
        assert concluded(runs, lambda parity: parity.agrees(probe, Limits(1.1e-3)))[0].status == status


@pytest.mark.parametrize(("single", "kind"), [(0.0, "modelling"), (0.25, "sharding")])
def test_what_is_larger_than_a_bug_makes_is_blamed_as_any_failure(
    monkeypatch: pytest.MonkeyPatch, single: float, kind: str
) -> None:
    """By one rank with the bug: it is the first run that fails. Just as large is the bug's."""
    error = float(concluded(Runs(result(0.5), without()))[0].properties["rel_error"])
    listed(monkeypatch, replace(BUG, at_most=repr(error)))
    assert concluded(Runs(result(0.5), without()))[0].status == "known"
    listed(monkeypatch, replace(BUG, at_most=repr(math.nextafter(error, 0.0))))
    runs = Runs(result(0.5), without(), result(single))
    found, ended = concluded(runs)
    assert (found.status, ended, found.properties["kind"]) == ("fail", pytest.fail.Exception, kind)
    assert [one for one in runs.asked if one != "without"] == ["single"]
    assert found.reasons[0].startswith("relative error 5.")
    assert found.reasons[-2] == f"more than the known upstream bug {BUG.id} makes (at most {error:.1e})"
    assert found.reasons[-1].startswith(f"{kind}: off by ")
    assert (found.title, found.place) == (f"{parameters(MODEL)[WEIGHT].title} Gradient", place(CASE, NAME))
    assert "known" not in found.properties


def test_a_second_run_that_broke_is_the_one_error_of_its_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks behind the bug are not evaluated; the check of the run itself says which run broke, and how."""
    second = without(0.0, broken=Broken(1, "rank 1 was killed by SIGKILL", "the stacks"))
    found, ended = concluded(Runs(result(0.5), second), Parity.finished)
    assert (found.status, ended, found.details, found.failure) == ("error", pytest.fail.Exception, "the stacks", "crash")
    assert found.reasons == (f"without the known upstream bugs ({BUG.id}): rank 1 was killed by SIGKILL",)
    listed(monkeypatch, of("this", NAME), of("other", NAME))
    both, _ = concluded(Runs(result(0.5), second), Parity.finished)
    assert both.reasons == ("without the known upstream bugs (this, other): rank 1 was killed by SIGKILL",)
