"""Statements of a check, made on results that no rank has to compute: which tensor is asked, what is said, what fails."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from _pytest.outcomes import Failed

from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.case.layout import Layout
from validation.case.optimizers import FIRST, SECOND
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.probes import observed
from validation.case.steps import GRADIENT, STEPS, left_bias, stepped
from validation.case.training import Training
from validation.checks.judging import Stated
from validation.checks.order import RUN, WEIGHTS, place
from validation.checks.parity import Parity
from validation.compare.difference import measure
from validation.compare.extent import extent
from validation.compare.limits import AFTER_STEPS, EXACT, IN_FP64, Limits
from validation.compare.measurement import PieceReport
from validation.compare.piece import whole
from validation.compare.verdict import Verdict
from validation.run.launch import Broken
from validation.run.result import Result

SINGLE = Case(
    "tiny", replace(TINY.model, num_hidden_layers=2), Layout(), "fp64", "local", "gloo", 1, 2, 1, 8, training=Training(steps=1)
)
TP2 = replace(SINGLE, layout=Layout.parse("tp2"))
NORM, CHOICE = "layers.1.input_norm", "layers.1.moe.router.experts"
WEIGHT = "model.norm.weight"
State = Callable[[Parity], None]


class Runs:
    """A result, and that against one rank; remembers whether the latter was asked for."""

    def __init__(self, result: Result, single: Result | None = None) -> None:
        self._result, self._single, self.asked = result, single, 0

    def result(self, case: Case) -> Result:
        """The one."""
        assert case == self._result.case
        return self._result

    def against_single(self, case: Case) -> Result | None:
        """The other."""
        assert case == self._result.case
        self.asked += 1
        return self._single

    def without_bugs(self, case: Case) -> Result:
        """No case here has a known bug."""
        raise AssertionError(f"{case.name} has no bug to be taken out")

    def again(self, case: Case) -> Result:
        """Nor a check that one excuses."""
        raise AssertionError(f"{case.name} has no bug that excuses a check")


def tensor(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def off(shape: tuple[int, ...], error: float = 0.0, digest: str = "a", rank: int = 0) -> PieceReport:
    """A whole tensor whose first element is off, so that it is wrong and no factor explains it."""
    right = tensor(shape)
    wrong = right.clone()
    wrong.view(-1)[0] += error * right.norm()
    return PieceReport(rank, whole(shape), measure(wrong, right, whole(shape)), digest)


def result(case: Case = SINGLE, **given: Any) -> Result:
    return Result(case, 1.25, given.pop("facts", {}), **given)


def failed(state: State, parity: Parity) -> Failed | None:
    """How the statement ended the check, None where it holds."""
    try:
        state(parity)
    except Failed as failure:
        return failure
    return None


def concluded(state: State, found: Result) -> Verdict:
    """The verdict that the statement leaves; whatever is no pass has failed the check with the verdict's line."""
    parity = Parity(found.case, Runs(found))
    failure, verdict = failed(state, parity), parity.verdict
    assert verdict is not None
    assert (failure is None) == (verdict.status == "pass")
    if failure is not None:
        assert (str(failure), failure.pytrace) == (verdict.line, False)
    return verdict


def shape_of(probe: str, case: Case = SINGLE) -> tuple[int, ...]:
    return observed(case)[probe].shape


@pytest.mark.parametrize(
    ("layout", "on_gpu", "said"),
    [
        ("single", (0,), "1 rank in 1.2 s, at most 3 MiB over the imports"),
        ("tp2", (0, 0), "2 ranks in 1.2 s, at most 3 MiB over the imports"),
        ("tp2", (5 << 20, 7 << 20), "2 ranks in 1.2 s, at most 3 MiB over the imports, 7 MiB on a GPU"),
    ],
)
def test_that_the_ranks_finished_is_said_with_time_and_memory(layout: str, on_gpu: tuple[int, ...], said: str) -> None:
    """The rank that took the most, over what it had before."""
    memory = tuple(
        {"baseline": 10 << 20, "peak": (12 + rank) << 20, "device_peak": device}
        for rank, device in enumerate(on_gpu, start=2 - len(on_gpu))
    )
    found = concluded(Parity.finished, result(replace(SINGLE, layout=Layout.parse(layout)), memory=memory))
    assert (found.status, found.title, found.numbers) == ("pass", "Every rank finishes", said)


def test_ranks_that_broke_are_an_error_with_their_stacks() -> None:
    """The one check that says why."""
    found = concluded(Parity.finished, result(broken=Broken(1, "rank 0 raised ZeroDivisionError", "in rank 0 ...")))
    assert (found.status, found.title) == ("error", "Every rank finishes")
    assert (found.reasons, found.details, found.numbers) == (("rank 0 raised ZeroDivisionError",), "in rank 0 ...", "")


STATEMENTS: dict[str, tuple[State, str, str]] = {
    "agrees": (lambda parity: parity.agrees(NORM), NORM, "Layer 1 Input Norm Output"),
    "routes_agree": (lambda parity: parity.routes_agree(CHOICE), CHOICE, "Layer 1 Router Output"),
    "weight_is_equal": (lambda parity: parity.weight_is_equal(WEIGHT), f"weights/{WEIGHT}", "Final Norm Weight"),
    "probe_gradient_agrees": (
        lambda parity: parity.probe_gradient_agrees(NORM),
        f"probe_gradients/{NORM}",
        "Layer 1 Input Norm Output Gradient",
    ),
    "gradient_agrees": (lambda parity: parity.gradient_agrees(WEIGHT), f"gradients/{WEIGHT}", "Final Norm Weight Gradient"),
}
FIRST_STEP = next(iter(stepped(SINGLE)))
STATEMENTS["step_agrees"] = (
    lambda parity: parity.step_agrees(FIRST_STEP),
    stepped(SINGLE)[FIRST_STEP].name,
    stepped(SINGLE)[FIRST_STEP].title,
)
NUMBERLESS: dict[str, tuple[State, str]] = {
    "every_tensor_is_set": (Parity.every_tensor_is_set, "Every Megatron tensor set"),
    "every_key_is_used": (Parity.every_key_is_used, "Every checkpoint key used"),
}
SHAPES = {
    "agrees": shape_of(NORM),
    "routes_agree": shape_of(CHOICE),
    "weight_is_equal": parameters(SINGLE.model)[WEIGHT].shape,
    "probe_gradient_agrees": shape_of(NORM),
    "gradient_agrees": parameters(SINGLE.model)[WEIGHT].shape,
    "step_agrees": stepped(SINGLE)[FIRST_STEP].shape,
}
LIMITS = dict.fromkeys(STATEMENTS, IN_FP64) | {
    "routes_agree": EXACT,
    "weight_is_equal": EXACT,
    "step_agrees": AFTER_STEPS,
}


def pieces_of(statement: str, error: float, case: Case = SINGLE) -> dict[str, tuple[PieceReport, ...]]:
    """What a statement looks at, off by this; of a choice also that it is the one of its own scores."""
    of: dict[str, tuple[PieceReport, ...]] = {STATEMENTS[statement][1]: (off(SHAPES[statement], error),)}
    if statement == "routes_agree":
        of |= {f"{kind}/{CHOICE}": (off(SHAPES[statement][:2]),) for kind in ("by_scores", "by_bias")}
    return of


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_is_about_its_tensor(statement: str) -> None:
    """By name, shape and title; what agrees passes, at its place in the flow of data, and nobody is asked of one rank."""
    state, name, title = STATEMENTS[statement]
    runs = Runs(result(TP2, pieces=pieces_of(statement, 0.0)))
    parity = Parity(TP2, runs)
    state(parity)
    assert parity.verdict is not None
    assert (parity.verdict.status, parity.verdict.title, parity.verdict.reasons) == ("pass", title, ())
    assert parity.verdict.place == place(TP2, name) != (0, 0)
    assert parity.stated == Stated(title, name, parity.stated.limits if parity.stated else None, math.prod(SHAPES[statement]))
    assert runs.asked == 0


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_fails_above_its_own_limit(statement: str) -> None:
    """And holds just below, where it has one; its place stays."""
    state, name, title = STATEMENTS[statement]
    limit = LIMITS[statement].relative_error
    wrong = concluded(state, result(pieces=pieces_of(statement, 2 * limit or 1e-14)))
    assert (wrong.status, wrong.title, wrong.place) == ("fail", title, place(SINGLE, name))
    assert wrong.failure == {"routes_agree": "routes", "weight_is_equal": "weights"}.get(statement, "limit")
    assert wrong.reasons[0].startswith("relative error")
    if limit:
        assert concluded(state, result(pieces=pieces_of(statement, limit / 2))).status == "pass"


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_tensor_that_no_rank_reports_is_an_error(statement: str) -> None:
    """Never a pass; of a choice it is the first thing said."""
    state, name, title = STATEMENTS[statement]
    found = concluded(state, result())
    assert (found.status, found.title, found.failure) == ("error", title, "coverage")
    assert found.reasons == (f"no rank reported {name}",)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_what_a_rank_could_not_compare_is_a_failure_whatever_the_others_say(statement: str) -> None:
    """Every rank's sentence, in the order of ranks, in place of any number."""
    state, name, title = STATEMENTS[statement]
    found = concluded(state, result(pieces=pieces_of(statement, 0.0), problems={name: {3: "shape (1,)", 0: "dtype float32"}}))
    assert (found.status, found.title, found.numbers) == ("fail", title, "")
    assert found.reasons == ("rank 0: dtype float32", "rank 3: shape (1,)")
    assert found.place == place(SINGLE, name)
    assert found.failure == ("weights" if statement == "weight_is_equal" else "shape")


@pytest.mark.parametrize("statement", [*STATEMENTS, *NUMBERLESS])
def test_nothing_is_evaluated_of_a_run_that_broke(statement: str) -> None:
    """Though its tensors may be there. The check is skipped, at its place in the flow of data: the run itself is the error."""
    state, title = (STATEMENTS[statement][0], STATEMENTS[statement][2]) if statement in STATEMENTS else NUMBERLESS[statement]
    pieces = pieces_of(statement, 0.0) if statement in STATEMENTS else {}
    facts = {"unused": [], "set_aside": {}, "keys": 3}
    parity = Parity(SINGLE, Runs(result(pieces=pieces, facts=facts, broken=Broken(1, "rank 0 raised", ""))))
    with pytest.raises(pytest.skip.Exception) as skipped:
        state(parity)
    found = parity.verdict
    assert found is not None
    assert str(skipped.value) == found.line == f"NOT EVALUATED: {title} - the run did not finish"
    assert (found.status, found.title, found.numbers, found.failure) == ("unevaluated", title, "", "")
    assert found.place > RUN


def test_the_run_itself_is_the_one_error_of_a_run_that_broke() -> None:
    found = concluded(Parity.finished, result(broken=Broken(1, "rank 1 raised ValueError", "its stack", ExitCode.FAIL)))
    assert (found.status, found.place, found.failure) == ("error", RUN, "exception")
    assert (found.reasons, found.details) == (("rank 1 raised ValueError",), "its stack")


@pytest.mark.parametrize("statement", NUMBERLESS)
def test_what_is_wrong_with_all_weights_stands_before_each_of_them(statement: str) -> None:
    facts = {"unused": ["a.weight"], "set_aside": {}, "keys": 3}
    problems = {"weights/extra": {0: "2 elements were not set"}}
    found = concluded(NUMBERLESS[statement][0], result(facts=facts, problems=problems))
    assert (found.status, found.failure, found.place) == ("fail", "weights", WEIGHTS)
    assert RUN < WEIGHTS < place(SINGLE, f"weights/{next(iter(parameters(SINGLE.model)))}")


@pytest.mark.parametrize("statement", [*STATEMENTS, *NUMBERLESS])
def test_what_is_stated_is_known_before_any_result(statement: str) -> None:
    """Title, tensor, limit and number of elements, which the manifest is made of; the first statement of a check counts."""
    if statement in STATEMENTS:
        state, name, title = STATEMENTS[statement]
        stated = Stated(title, name, LIMITS[statement], math.prod(SHAPES[statement]))
    else:
        state, title = NUMBERLESS[statement]
        stated = Stated(title)
    parity = Parity(SINGLE, Runs(result(broken=Broken(1, "rank 0 raised", ""))))
    for _ in range(2):
        with pytest.raises((pytest.skip.Exception, pytest.fail.Exception)):
            state(parity)
        assert parity.stated == stated
        state = Parity.finished


def test_a_probe_that_a_case_does_not_have_is_a_mistake_of_the_check() -> None:
    """The names that there are stand in the sentence."""
    with pytest.raises(
        LookupError, match=r"layers\.9.output is not a probe of this case; known are embedding, layers\.0\.input_norm"
    ):
        Parity(SINGLE, Runs(result())).agrees("layers.9.output")


def test_a_check_may_have_limits_of_its_own() -> None:
    """They are stated, and they decide."""
    wide = Limits(0.45)
    parity = Parity(SINGLE, Runs(result(pieces={NORM: (off(shape_of(NORM), 0.4),)})))
    parity.agrees(NORM, wide)
    assert parity.stated == Stated("Layer 1 Input Norm Output", NORM, wide, math.prod(shape_of(NORM)))
    narrow = concluded(lambda parity: parity.agrees(NORM, Limits(0.3)), result(pieces={NORM: (off(shape_of(NORM), 0.4),)}))
    assert narrow.status == "fail"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (1e-10, "1e-10 is no Limits; give Limits"),
        (Limits(math.nan), "a relative error of nan decides nothing as a limit; give one from 0 to below 0.5"),
        (Limits(math.inf), "a relative error of inf decides nothing"),
        (Limits(-1.0), "a relative error of -1 decides nothing"),
        (Limits(0.5), "a relative error of 0.5 decides nothing"),
        (Limits(0.1, max_abs=math.nan), "a largest difference of nan decides nothing"),
        (Limits(0.1, max_abs=math.inf), "a largest difference of inf decides nothing"),
    ],
)
def test_limits_that_decide_nothing_are_refused(limits: Limits, said: str) -> None:
    """Whatever the tensor is: a check under them would pass, or fail, for no reason."""
    with pytest.raises((TypeError, ValueError), match=said):
        Parity(SINGLE, Runs(result(pieces={NORM: (off(shape_of(NORM), 0.0),)}))).agrees(NORM, limits)


@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_of_several_statements_the_first_counts_unless_one_does_not_hold(errors: tuple[float, float]) -> None:
    """Even if the check goes on behind a failure: it is called by the first, and what fails stays a failure."""
    names = (NORM, "layers.0.input_norm")
    pieces = {name: (off(shape_of(name), error),) for name, error in zip(names, errors, strict=True)}
    parity = Parity(SINGLE, Runs(result(pieces=pieces)))
    for name in names:
        with contextlib.suppress(pytest.fail.Exception):
            parity.agrees(name)
    assert parity.verdict is not None
    assert parity.verdict.status == ("fail" if any(errors) else "pass")
    assert parity.verdict.title == f"Layer {0 if errors[1] else 1} Input Norm Output"


BF16, FP32 = replace(SINGLE, precision="bf16"), replace(SINGLE, precision="fp32")


@pytest.mark.parametrize(("error", "status"), [(0.019, "pass"), (0.021, "fail")])
def test_in_a_lower_precision_the_floor_decides(error: float, status: str) -> None:
    """Twice what rounding makes; it is not stated, for nobody knows it before the reference is there."""
    facts = {"floor": {NORM: 0.01}, "magnitude": {NORM: 1.0}}
    parity = Parity(BF16, Runs(result(BF16, pieces={NORM: (off(shape_of(NORM), error),)}, facts=facts)))
    assert (failed(lambda parity: parity.agrees(NORM), parity) is None) is (status == "pass")
    assert parity.stated == Stated("Layer 1 Input Norm Output", NORM, None, math.prod(shape_of(NORM)))


@pytest.mark.parametrize(("magnitude", "status"), [(1.0, "fail"), (1e5, "pass")])
def test_in_fp32_the_absolute_limit_goes_with_the_magnitude(magnitude: float, status: str) -> None:
    """Of the tensor's own truth."""
    facts = {"floor": {NORM: 0.1}, "magnitude": {NORM: magnitude, "logits": 1e9}}
    error = 0.01
    found = concluded(
        lambda parity: parity.agrees(NORM), result(FP32, pieces={NORM: (off(shape_of(NORM), error),)}, facts=facts)
    )
    assert found.status == status


@pytest.mark.parametrize(("name", "share", "status"), [(NORM, 0.49, "fail"), (NORM, 0.51, "pass"), ("logits", 9.0, "fail")])
def test_in_fp32_an_element_may_turn_over_as_far_as_rounding_may_move_it(name: str, share: float, status: str) -> None:
    piece = off(shape_of(NORM), 0.01)
    facts = {"floor": {NORM: 0.1}, "magnitude": {NORM: 1.0}, "turned": {name: share * piece.difference.max_abs}}
    pieces = {NORM: (piece,)}
    assert concluded(lambda parity: parity.agrees(NORM), result(FP32, pieces=pieces, facts=facts)).status == status


@pytest.mark.parametrize(
    ("step", "by_formula", "floors", "error", "status", "decided_by"),
    [
        pytest.param(1, True, (0.45, 0.5), 1.0, "pass", "formula", id="judged by the formula"),
        pytest.param(1, True, (0.45, 0.5), 1.2, "fail", "formula", id="judged by the formula, and above its limit"),
        pytest.param(1, False, (0.45, 0.5), 1.0, "error", None, id="judged by nothing"),
        pytest.param(1, True, (0.5, 0.45), 1.0, "error", None, id="made of a gradient about which nothing decides"),
        pytest.param(2, True, (0.45, 0.45), 1.0, "pass", "formula", id="of two gradients"),
        pytest.param(2, True, (0.45, 0.5), 1.0, "error", None, id="of two gradients, of which the second is undecided"),
        pytest.param(2, True, (0.5, 0.45), 1.0, "error", None, id="of two gradients, of which the first is undecided"),
    ],
)
def test_the_formula_decides_about_a_second_moment_whose_limit_is_wide(
    step: int, by_formula: bool, floors: tuple[float, float], error: float, status: str, decided_by: str | None
) -> None:
    """Its own limit would pass zeros. Those of the gradients would not, and the formula makes the moment of these."""
    case = replace(SINGLE, precision="bf16", training=Training(steps=2, fp8="blockwise"))
    moment = f"{STEPS}{step}/{SECOND}/{WEIGHT}"
    names = (moment, f"{STEPS}1/{FIRST}/{WEIGHT}", f"{STEPS}2/{GRADIENT}/{WEIGHT}")
    facts = {"floor": dict(zip(names, (0.53, *floors), strict=True)), "magnitude": dict.fromkeys(names, 1.0)}
    piece = off(parameters(case.model)[WEIGHT].shape, error)
    given = result(case, facts=facts, pieces={moment: (piece,)}, by_formula=frozenset({moment} if by_formula else names[1:]))
    found = concluded(lambda parity: parity.step_agrees(moment.removeprefix(STEPS)), given)
    assert (found.status, found.properties.get("decided_by")) == (status, decided_by)
    assert ("cannot be decided in fp8" in found.line) == (status == "error")


@pytest.mark.parametrize("facts", [{}, {"floor": {"logits": 0.1}, "magnitude": {}}])
def test_without_a_floor_nothing_can_be_decided_in_a_lower_precision(facts: dict[str, Any]) -> None:
    """A check of a tensor of its own must bring limits."""
    of = result(BF16, pieces={NORM: (off(shape_of(NORM)),)}, facts=facts)
    with pytest.raises(LookupError, match=f"the reference has no floor for {NORM}; give the check limits of its own"):
        Parity(BF16, Runs(of)).agrees(NORM)


def test_what_cannot_be_decided_says_what_would() -> None:
    """By the options of the case: fp8, and whether it is isolated already."""
    facts = {"floor": {NORM: 0.6}, "magnitude": {NORM: 1.0}}
    said = {}
    for name, case in {
        "plain": BF16,
        "isolated": replace(BF16, isolated=True),
        "fp8": replace(BF16, training=replace(BF16.training, fp8="delayed")),
    }.items():
        found = concluded(lambda parity: parity.agrees(NORM), result(case, pieces={NORM: (off(shape_of(NORM)),)}, facts=facts))
        assert found.status == "error"
        said[name] = found.reasons[0].rpartition("; ")[2]
    assert said == {
        "plain": "--isolated or --precision fp32 can",
        "isolated": "--precision fp32 can",
        "fp8": "the same without fp8 can",
    }


def flipped(tokens: int = 0, error: float = 0.0) -> dict[str, tuple[PieceReport, ...]]:
    """A choice in which the first `tokens` chose otherwise, by this margin, and as their own scores say."""
    shape = shape_of(CHOICE)
    right = torch.zeros(shape, dtype=torch.bool)
    right[..., :2] = True
    choice = right.clone()
    choice[0, :tokens, 1], choice[0, :tokens, 5] = False, True
    margins = torch.zeros(shape[:2], dtype=torch.float64)
    margins[0, :tokens] = error
    box = whole(shape[:2])
    none = PieceReport(0, box, measure(margins * 0, margins * 0, box), "a")
    return {
        CHOICE: (PieceReport(0, whole(shape), measure(choice, right, whole(shape)), "a"),),
        f"flips/{CHOICE}": (PieceReport(0, box, measure(margins, margins * 0, box), "a"),),
        f"by_scores/{CHOICE}": (none,),
        f"by_bias/{CHOICE}": (none,),
    }


def test_routes_are_said_as_routes() -> None:
    found = concluded(STATEMENTS["routes_agree"][0], result(pieces=flipped(3)))
    assert found.status == "fail"
    assert ", 3 of 32 routes differ" in found.numbers


@pytest.mark.parametrize(
    ("case", "margin", "status"),
    [(BF16, 1e-3, "pass"), (BF16, 3e-3, "fail"), (SINGLE, 1e-9, "fail")],
    ids=["near", "far", "fp64"],
)
def test_a_near_tie_is_one_in_a_lower_precision_alone(case: Case, margin: float, status: str) -> None:
    """Within what rounding does to this router's scores."""
    facts = {"score_floor": {CHOICE: 1e-3, "layers.0.moe.router.experts": 1.0}, "floor": {}, "magnitude": {}}
    found = concluded(STATEMENTS["routes_agree"][0], result(case, pieces=flipped(2, margin), facts=facts))
    assert found.status == status
    assert ("near-ties" in found.line) is (case is BF16)


def test_a_choice_without_flips_needs_no_margins() -> None:
    """Where it agrees nothing is asked of them."""
    pieces = {name: found for name, found in flipped().items() if not name.startswith("flips/")}
    assert concluded(STATEMENTS["routes_agree"][0], result(BF16, pieces=pieces)).status == "pass"


@pytest.mark.parametrize(
    ("step", "off_by", "status"), [(1, 0.0, "pass"), (1, 1e-6, "fail"), (1, None, "fail"), (2, None, "pass")]
)
def test_the_next_step_chooses_by_the_bias_that_a_step_leaves(step: int, off_by: float | None, status: str) -> None:
    """Below fp64 routers go on with the reference's choices, and what they choose themselves shows nowhere else."""
    case = replace(SINGLE, training=Training(steps=2))
    key = left_bias(step, 1).removeprefix(STEPS)
    pieces = {left_bias(step, 1): (off(stepped(case)[key].shape, 0.0),)}
    if off_by is not None:
        pieces |= {f"by_scores/{left_bias(1, 1)}": (off(shape_of(CHOICE)[:2]),)}
        pieces |= {f"by_bias/{left_bias(1, 1)}": (off(shape_of(CHOICE)[:2], off_by),)}
    found = concluded(lambda parity: parity.step_agrees(key), result(case, pieces=pieces))
    assert found.status == status
    assert all(reason.startswith("in the next step ") for reason in found.reasons)


@pytest.mark.parametrize("kind", ["by_scores", "by_bias"])
def test_a_choice_that_is_not_that_of_its_own_scores_and_bias_fails_though_it_agrees(kind: str) -> None:
    """Each of the two by itself, off or silent."""
    off_by = {**flipped(), f"{kind}/{CHOICE}": (off(shape_of(CHOICE)[:2], 1e-3),)}
    silent = {name: found for name, found in flipped().items() if name != f"{kind}/{CHOICE}"}
    for pieces in (off_by, silent):
        assert concluded(STATEMENTS["routes_agree"][0], result(pieces=pieces)).status == "fail"


def test_of_a_choice_that_could_not_be_compared_nothing_more_is_said() -> None:
    """What its own scores would give is not asked then."""
    problems = {CHOICE: {1: "shape (1,)"}}
    assert concluded(STATEMENTS["routes_agree"][0], result(problems=problems)).reasons == ("rank 1: shape (1,)",)


def reduced(after: float, before: float | None, case: Case = SINGLE) -> Verdict:
    """The verdict on a gradient that is off by these, after the reduction and before it."""
    shape = SHAPES["gradient_agrees"]
    pieces = {f"gradients/{WEIGHT}": (off(shape, after),)}
    if before is not None:
        pieces[f"unreduced/{WEIGHT}"] = (off(shape, before),)
    return concluded(STATEMENTS["gradient_agrees"][0], result(case, pieces=pieces))


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (0.0, "before reduction the ranks' sum is off by 0.0e+00: the reduction is what is wrong"),
        (0.5, "before reduction the ranks' sum is off by 5.0e-01: the backward pass is wrong already"),
    ],
)
def test_a_wrong_gradient_says_whether_its_reduction_made_it(before: float, said: str) -> None:
    """By what the ranks had before."""
    found = reduced(0.5, before)
    assert said in found.reasons
    assert float(found.properties["rel_error_before_reduction"]) == pytest.approx(before)


def test_a_right_gradient_has_the_number_and_no_reason() -> None:
    found = reduced(0.0, 0.5)
    assert (found.status, found.reasons) == ("pass", ())
    assert float(found.properties["rel_error_before_reduction"]) == pytest.approx(0.5)


@pytest.mark.parametrize("before", [None, math.nan])
def test_what_is_not_known_of_before_the_reduction_says_nothing(before: float | None) -> None:
    found = reduced(0.5, before)
    assert found.status == "fail"
    assert not any("before reduction" in reason for reason in found.reasons)
    assert ("rel_error_before_reduction" in found.properties) is (before is not None)


def blamed(single: Result | None, case: Case = TP2, error: float = 0.5) -> tuple[Verdict, int]:
    """The verdict on a wrong tensor with what one rank has of it, and how often that was asked."""
    runs = Runs(result(case, pieces={NORM: (off(shape_of(NORM), error),)}), single)
    parity = Parity(case, runs)
    assert failed(STATEMENTS["agrees"][0], parity) is not None
    assert parity.verdict is not None
    return parity.verdict, runs.asked


def of_one(error: float, digest: str = "a") -> Result:
    return result(TP2, pieces={NORM: (off(shape_of(NORM), error, digest),)})


def test_on_one_rank_it_is_the_model() -> None:
    """Nobody is asked."""
    found, asked = blamed(None, SINGLE)
    assert (found.reasons[-1], found.properties["kind"], asked) == ("on one rank: modelling", "modelling", 0)


@pytest.mark.parametrize(
    ("error", "kind"), [(0.0, "modelling"), (0.9e-10, "modelling"), (1.1e-10, "sharding"), (0.5, "sharding")]
)
def test_what_one_rank_has_too_is_the_model_and_what_it_has_not_is_the_layout(error: float, kind: str) -> None:
    """Within the limit of the tensor; the number is said."""
    found, asked = blamed(of_one(error))
    assert (found.properties["kind"], asked) == (kind, 1)
    assert found.reasons[-1] == f"{kind}: off by {error:.1e} from the same model on one rank"


@pytest.mark.parametrize(
    ("error", "kind", "too"), [(0.0, "sharding", ""), (0.9e-10, "sharding", ""), (0.5, "modelling", ", too")]
)
def test_an_isolated_case_is_told_by_the_error_of_one_rank_alone(error: float, kind: str, too: str) -> None:
    """Which was compared with the reference."""
    found, _ = blamed(of_one(error, "other bytes"), replace(TP2, isolated=True))
    assert found.properties["kind"] == kind
    assert found.reasons[-1] == f"{kind}: one rank alone is off by {error:.1e}{too}"


def test_a_run_that_does_not_repeat_tells_nothing_of_the_layout() -> None:
    found, _ = blamed(of_one(0.0, "other bytes"))
    assert found.reasons[-1] == "not repeatable: run again, other bytes come out (a race, or something random)"
    assert "kind" not in found.properties


@pytest.mark.parametrize("single", [None, result(TP2), of_one(math.nan)], ids=["none", "no pieces", "not finite"])
def test_without_a_result_of_one_rank_nothing_is_blamed(single: Result | None) -> None:
    found, asked = blamed(single)
    assert asked == 1
    assert found.status == "fail"
    assert "kind" not in found.properties


def test_a_weight_is_not_computed_so_that_nothing_is_blamed_for_it() -> None:
    runs = Runs(result(TP2, pieces=pieces_of("weight_is_equal", 0.5)), result(TP2, pieces=pieces_of("weight_is_equal", 0.0)))
    parity = Parity(TP2, runs)
    assert failed(STATEMENTS["weight_is_equal"][0], parity) is not None
    assert runs.asked == 0


def test_a_failure_says_where_it_is() -> None:
    """Ranks and ranges, as localised; a pass does not."""
    found = concluded(STATEMENTS["agrees"][0], result(pieces={NORM: (off(shape_of(NORM), 0.5),)}))
    assert "wrong" in found.properties or any(reason.startswith("worst at [0, 0, 0]") for reason in found.reasons)


def test_every_tensor_that_nothing_set_is_named_once_with_its_ranks() -> None:
    """Of tensors that no parameter of the checkpoint has: those have a check of their own."""
    problems = {
        "weights/decoder.adapter": {1: "adapter: no row", 0: "adapter: no row"},
        "weights/decoder.other": {1: "other holds elements"},
        f"weights/{WEIGHT}": {0: "shape"},
        NORM: {0: "dtype"},
    }
    found = concluded(Parity.every_tensor_is_set, result(TP2, problems=problems))
    assert (found.status, found.title, found.numbers) == ("fail", "Every Megatron tensor set", "none left NaN")
    assert found.reasons == ("adapter: no row (rank 0, 1)", "other holds elements (rank 1)")
    del problems["weights/decoder.adapter"], problems["weights/decoder.other"]
    passed = concluded(Parity.every_tensor_is_set, result(TP2, problems=problems))
    assert (passed.status, passed.reasons) == ("pass", ())


@pytest.mark.parametrize(
    ("unused", "reasons"),
    [
        ([], ()),
        (["a", "b", "c"], ("no parameter takes a", "no parameter takes b", "no parameter takes c")),
        (list("abcd"), ("no parameter takes a", "no parameter takes b", "no parameter takes c", "and 1 more")),
        (list("abcde"), ("no parameter takes a", "no parameter takes b", "no parameter takes c", "and 2 more")),
    ],
)
def test_every_key_that_nothing_takes_is_counted_and_three_are_named(unused: list[str], reasons: tuple[str, ...]) -> None:
    facts = {"unused": unused, "set_aside": {"other layers": 7, "the MTP layer": 2}, "keys": 12}
    found = concluded(Parity.every_key_is_used, result(facts=facts))
    assert (found.status, found.title) == ("fail" if unused else "pass", "Every checkpoint key used")
    assert found.numbers == "12 keys, 7 set aside: other layers, 2 set aside: the MTP layer"
    assert (found.reasons, found.failure) == (reasons, "weights" if unused else "")


def test_before_anything_is_stated_there_is_nothing() -> None:
    """The manifest asks what was stated, the report what came of it."""
    parity = Parity(SINGLE, Runs(result()))
    assert (parity.verdict, parity.stated) == (None, None)


def test_that_ranks_finish_is_a_statement_about_no_tensor() -> None:
    memory = ({"baseline": 0, "peak": 0, "device_peak": 0},)
    parity = Parity(SINGLE, Runs(result(memory=memory)))
    parity.finished()
    assert parity.stated == Stated("Every rank finishes")
    assert parity.verdict is not None
    assert (parity.verdict.details, parity.verdict.reasons) == ("", ())


def test_routes_are_counted_of_choices_alone() -> None:
    found = concluded(STATEMENTS["agrees"][0], result(pieces=pieces_of("agrees", 0.0)))
    assert "routes" not in found.numbers


def exactly(error: float, digest: str = "a") -> PieceReport:
    """A whole tensor of a norm's output whose relative error is this number to the bit, a power of two."""
    report = off(shape_of(NORM), 1e-3, digest)
    return replace(report, difference=replace(report.difference, reference_squares=1.0, sum_squares=error**2, cross=1.0))


@pytest.mark.parametrize(("isolated", "kind"), [(False, "modelling"), (True, "sharding")])
def test_exactly_at_the_limit_one_rank_agrees(isolated: bool, kind: str) -> None:
    """With the same model on more ranks, or with the reference."""
    case = replace(TP2, isolated=isolated)
    runs = Runs(result(case, pieces={NORM: (exactly(0.5),)}), result(case, pieces={NORM: (exactly(0.25),)}))
    parity = Parity(case, runs)
    assert failed(lambda parity: parity.agrees(NORM, Limits(0.25)), parity) is not None
    assert parity.verdict is not None
    assert parity.verdict.properties["kind"] == kind


@pytest.mark.parametrize(("before", "said"), [(0.25, "the reduction is what is wrong"), (0.26, "the backward pass is wrong")])
def test_in_a_lower_precision_the_gradient_s_own_floor_says_whether_it_was_right(before: float, said: str) -> None:
    """Exactly at the limit it was."""
    name, shape = f"gradients/{WEIGHT}", SHAPES["gradient_agrees"]
    report = off(shape, 0.1)
    right = replace(report, difference=replace(report.difference, reference_squares=1.0, sum_squares=before**2))
    facts = {"floor": {name: 0.125, NORM: 1.0}, "magnitude": {name: 1.0, NORM: 1.0}}
    pieces = {name: (off(shape, 0.5),), f"unreduced/{WEIGHT}": (right,)}
    found = concluded(STATEMENTS["gradient_agrees"][0], result(BF16, pieces=pieces, facts=facts))
    assert any(said in reason for reason in found.reasons)


def halves(wrong: float, right: torch.Tensor) -> tuple[PieceReport, ...]:
    """Two ranks with half of the sequence each, of which the second is this many times the reference."""
    pieces = []
    for rank, (start, stop) in enumerate(((0, 4), (4, 8))):
        box = (whole(right.shape)[0], (start, stop), *whole(right.shape)[2:])
        part = right[:, start:stop].contiguous()
        candidate = part * (wrong if rank else 1.0)
        difference = measure(candidate, part, box)
        pieces.append(PieceReport(rank, box, difference, f"{rank}", extent(candidate, part, box, difference)))
    return tuple(pieces)


def test_a_failure_says_which_coordinate_is_wrong_and_by_which_factor() -> None:
    """By the ranks' places, and within the limit of the tensor."""
    found = result(TP2, pieces={NORM: halves(2.0, tensor(shape_of(NORM)))}, places=({"tp": 0}, {"tp": 1}))
    verdict = concluded(STATEMENTS["agrees"][0], found)
    pattern = verdict.properties["pattern"]
    assert "rank 1 only (tp 1)" in pattern
    assert pattern.startswith("2 times the reference in every wrong piece (")
    assert verdict.properties["wrong"].startswith("rank 1 [")


def test_a_statement_after_a_look_at_the_result_does_not_name_the_check() -> None:
    """It has one name in every run, and there is no result where checks are listed."""
    parity = Parity(SINGLE, Runs(Result(SINGLE, 0.0, {})))
    assert parity.result.broken is None
    parity.states("Found later")
    assert parity.stated is None
