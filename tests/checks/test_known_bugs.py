"""Known upstream bugs: expected where they are known, and nothing else is excused by them."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import torch

from validation.case import fields, latent_norms
from validation.case.case import Case
from validation.case.inference import inferred
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.probes import observed, probes
from validation.case.steps import BIAS, stepped
from validation.case.training import Training
from validation.checks.parity import Parity
from validation.checks.report import Report
from validation.checks.tally import Tally
from validation.compare.difference import measure
from validation.compare.measurement import PieceReport
from validation.compare.piece import whole
from validation.machine import version
from validation.run.known import Known, known_bugs, mended, nearest, refusal, table
from validation.run.launch import Broken
from validation.run.result import Result

PARAMETER = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"


live_in_0_16 = pytest.mark.skipif(not version("megatron-core").startswith("0.16"), reason="0.18 has mended the bug")


def case(implementation: str = "local-stock", layout: str = "tp2") -> Case:
    return Case("tiny", TINY.model, Layout.parse(layout), "fp64", implementation, "gloo", 1, 4, 2, 48)


class Runs:
    """The result of a case, and that of the same case without its known bugs."""

    def __init__(self, result: Result, without: Result) -> None:
        self._result, self._without = result, without
        self.asked_without: list[tuple[str, ...]] = []

    def result(self, case: Case) -> Result:
        """The first."""
        return self._result

    def without_bugs(self, case: Case) -> Result:
        """The second; notes which bugs were to be taken out."""
        self.asked_without.append(case.mended)
        return self._without

    def again(self, case: Case) -> None:
        """Nobody runs it once more."""

    def against_single(self, case: Case) -> Result | None:
        """None."""
        return None


def found(candidate: torch.Tensor, reference: torch.Tensor, of: Case) -> Result:
    """One rank that reports this candidate as the gradient of PARAMETER."""
    box = whole(reference.shape)
    report = PieceReport(0, box, measure(candidate, reference, box), sha256(candidate.numpy().tobytes()).hexdigest())
    return Result(of, 1.0, {}, pieces={f"gradients/{PARAMETER}": (report,)})


def concluded(candidate: torch.Tensor, reference: torch.Tensor, of: Case, without: torch.Tensor | Result | None = None) -> Any:
    """The verdict on that gradient; `without` is what the rank reports with the known bugs taken out, else the reference."""
    mended = without if isinstance(without, Result) else found(reference if without is None else without, reference, of)
    runs = Runs(found(candidate, reference, of), mended)
    parity = Parity(of, runs)
    try:
        parity.gradient_agrees(PARAMETER)
    except (pytest.fail.Exception, pytest.xfail.Exception) as outcome:
        return parity.verdict, type(outcome)
    return parity.verdict, None


@pytest.fixture
def gradient() -> torch.Tensor:
    shape = parameters(TINY.model)[PARAMETER].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_failure_that_is_known_is_expected(gradient: torch.Tensor) -> None:
    """It says what the bug is and where to read about it."""
    verdict, outcome = concluded(gradient * 0.5, gradient, case())
    assert (verdict.status, outcome) == ("known", pytest.xfail.Exception)
    assert "https://github.com/NVIDIA/Megatron-LM/issues/1699" in verdict.line
    assert verdict.properties["known"] == "shared-rope-key-not-reduced"
    assert float(verdict.properties["rel_error_without"]) == 0.0
    assert float(verdict.properties["rel_error"]) == 0.5


@pytest.mark.parametrize("factor", [3.0, -1.0, 1.0 + 1e-9])
def test_what_lies_behind_a_known_bug_is_a_failure(gradient: torch.Tensor, factor: float) -> None:
    """With the bug taken out the gradient is still wrong: the verdict has the numbers of that run."""
    verdict, outcome = concluded(gradient * 0.5, gradient, case(), without=gradient * factor)
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)
    assert float(verdict.properties["rel_error"]) == pytest.approx(abs(factor - 1))
    assert verdict.line.endswith("with the known upstream bug shared-rope-key-not-reduced taken out")
    assert verdict.properties["behind"] == "shared-rope-key-not-reduced"


@pytest.mark.parametrize(("factor", "status"), [(5.9, "known"), (6.1, "fail"), (-1000.0, "fail")])
def test_what_is_larger_than_the_bug_is_a_failure(gradient: torch.Tensor, factor: float, status: str) -> None:
    """Even if the run without the bug agrees: taking the bug out may have taken another error along."""
    verdict, _ = concluded(gradient * factor, gradient, case())
    assert verdict.status == status
    assert ("more than the known upstream bug shared-rope-key-not-reduced makes (at most 5.0e+00)" in verdict.line) is (
        status == "fail"
    )


def test_a_bug_that_does_less_than_rounding_need_not_show(gradient: torch.Tensor) -> None:
    """An epsilon that is 1e-6 but for its last places: both runs pass, with other bytes. With the same bytes it is mended."""
    verdict, _ = concluded(gradient * (1 + 1e-14), gradient, case(), without=gradient * (1 - 1e-14))
    assert verdict.status == "pass"
    verdict, _ = concluded(gradient, gradient, case(), without=gradient * 2)
    assert verdict.status == "fail"


def test_a_run_without_the_bug_that_broke_leaves_the_check_undecided(gradient: torch.Tensor) -> None:
    """Nothing is green unless it was compared."""
    broken = Result(case(), 1.0, {}, broken=Broken(1, "rank 1 was killed by SIGKILL in 'weights'", "the stacks"))
    verdict, outcome = concluded(gradient * 0.5, gradient, case(), without=broken)
    assert (verdict.status, outcome, verdict.details) == ("error", pytest.fail.Exception, "the stacks")
    assert "rank 1 was killed" in verdict.line


def test_a_tensor_that_is_missing_without_the_bug_leaves_the_check_undecided(gradient: torch.Tensor) -> None:
    """No rank reported it."""
    verdict, _ = concluded(gradient * 0.5, gradient, case(), without=Result(case(), 1.0, {}))
    assert verdict.status == "error"


def test_the_second_run_is_the_case_without_its_bugs(gradient: torch.Tensor) -> None:
    """And nobody asks for it unless a check fails that a bug excuses."""
    runs = Runs(found(gradient * 0.5, gradient, case()), found(gradient, gradient, case()))
    with pytest.raises(pytest.xfail.Exception):
        Parity(case(), runs).gradient_agrees(PARAMETER)
    assert runs.asked_without
    assert set(runs.asked_without) == {("shared-rope-key-not-reduced",)}
    local = Runs(found(gradient, gradient, case("local")), found(gradient, gradient, case("local")))
    Parity(case("local"), local).gradient_agrees(PARAMETER)
    assert local.asked_without == []


def test_a_case_without_its_bugs_has_none(gradient: torch.Tensor) -> None:
    """Nothing is excused there."""
    assert known_bugs(mended(case())) == ()
    verdict, outcome = concluded(gradient * 0.5, gradient, mended(case()))
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)


def test_a_known_bug_that_does_not_show_turns_the_run_red(gradient: torch.Tensor) -> None:
    """Upstream has mended it: the entry must go."""
    verdict, outcome = concluded(gradient, gradient, case())
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)
    assert "remove the entry" in verdict.line


def test_below_fp64_rounding_may_hide_a_known_bug(gradient: torch.Tensor) -> None:
    """It passes by its own limit there, and upstream has mended nothing."""
    assert known_bugs(replace(case(), precision="bf16")) == known_bugs(case())
    assert not any(bug.must_fail(replace(case(), precision="bf16"), f"gradients/{PARAMETER}") for bug in known_bugs(case()))
    assert any(bug.must_fail(case(), f"gradients/{PARAMETER}") for bug in known_bugs(case()))


@pytest.mark.parametrize("of", [case("local"), case(layout="single")], ids=["implementation", "layout"])
def test_a_bug_is_known_only_where_it_is(gradient: torch.Tensor, of: Case) -> None:
    """The same numbers under another implementation or layout are a failure."""
    verdict, outcome = concluded(gradient * 0.5, gradient, of)
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)


def test_a_known_bug_is_no_excuse_for_nan(gradient: torch.Tensor) -> None:
    """What is known is a wrong sum; a gradient that is not finite is something else."""
    spoiled = gradient.clone()
    spoiled[0, 0] = math.nan
    verdict, outcome = concluded(spoiled, gradient, case())
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)


FREED = Training().with_settings({"model.deallocate_pipeline_outputs": True})
BOTH = FREED.with_settings({"model.cross_entropy_loss_fusion": True})


def freed(training: Training = FREED) -> Case:
    return replace(case("local", "pp2vpp2"), training=training)


@live_in_0_16
@pytest.mark.parametrize("spoiled", [math.nan, math.inf, 1e200])
def test_freed_memory_may_hold_anything(gradient: torch.Tensor, spoiled: float) -> None:
    """The second run decides."""
    candidate = gradient.clone()
    candidate[0, 0] = spoiled
    verdict, outcome = concluded(candidate, gradient, freed())
    assert (verdict.status, outcome) == ("known", pytest.xfail.Exception)
    verdict, outcome = concluded(candidate, gradient, freed(), without=gradient * 2)
    assert (verdict.status, outcome) == ("fail", pytest.fail.Exception)


@live_in_0_16
@pytest.mark.parametrize("by_chance", [False, True])
def test_a_choice_by_scores_that_are_no_numbers_is_known_if_the_second_run_has_the_right_one(by_chance: bool) -> None:
    """A router that is given freed memory chooses by NaN, right or wrong; without the bug it chooses by its own scores."""
    of, name = freed(), "layers.1.moe.router.experts"
    shape = observed(of)[name].shape
    right = torch.zeros(shape, dtype=torch.float64)
    right[..., :2] = 1
    results = []
    for candidate, by in ((right if by_chance else right.roll(1, -1), math.nan), (right, 0.0)):
        own, box = torch.full(shape[:2], by, dtype=torch.float64), whole(shape)
        report = PieceReport(0, box, measure(candidate, right, box), "")
        scores = PieceReport(0, whole(shape[:2]), measure(own, torch.zeros_like(own), whole(shape[:2])), "")
        pieces: dict[str, tuple[PieceReport, ...]] = {
            name: (report,),
            f"by_scores/{name}": (scores,),
            f"by_bias/{name}": (scores,),
        }
        results.append(Result(of, 1.0, {}, pieces=pieces))
    parity = Parity(of, Runs(*results))
    with pytest.raises(pytest.xfail.Exception):
        parity.routes_agree(name)


@live_in_0_16
@pytest.mark.parametrize(("off", "status"), [(0.0, "known"), (1.0, "fail")], ids=["freed memory alone", "another bias, too"])
def test_a_bias_that_another_bug_moves_beside_scores_that_are_no_numbers_is_known(off: float, status: str) -> None:
    """The bias differs as the fused cross entropy makes it, and the next step's routers have scores of freed memory."""
    of = freed(BOTH.with_settings({"model.moe_router_bias_update_rate": 0.001}))
    of = replace(of, training=replace(of.training, steps=2))
    key = next(key for key, one in stepped(of).items() if key.endswith(BIAS) and one.step == 1)
    known = stepped(of)[key]
    tokens = observed(of)["layers.1.moe.router.experts"].shape[:2]
    bias = torch.linspace(-0.1, 0.1, known.shape[0], dtype=torch.float64)
    results = []
    for moved, by in ((0.001, math.nan), (0.0, off)):
        own = torch.full(tokens, by, dtype=torch.float64)
        scores = PieceReport(0, whole(tokens), measure(own, torch.zeros_like(own), whole(tokens)), "")
        report = PieceReport(0, whole(known.shape), measure(bias + moved, bias, whole(known.shape)), "")
        pieces: dict[str, tuple[PieceReport, ...]] = {
            known.name: (report,),
            f"by_scores/{known.name}": (scores,),
            f"by_bias/{known.name}": (scores,),
        }
        results.append(Result(of, 1.0, {}, pieces=pieces))
    parity = Parity(of, Runs(*results))
    with pytest.raises((pytest.xfail.Exception, pytest.fail.Exception)):
        parity.step_agrees(key)
    assert parity.verdict is not None
    assert parity.verdict.status == status


@live_in_0_16
@pytest.mark.parametrize(("factor", "bug"), [(1.5, "fused-cross-entropy-in-bf16"), (9.0, "outputs-freed-while-sent")])
def test_of_several_bugs_the_first_counts_that_can_make_the_error(gradient: torch.Tensor, factor: float, bug: str) -> None:
    verdict, _ = concluded(gradient * factor, gradient, freed(BOTH))
    assert (verdict.status, verdict.properties["known"]) == ("known", bug)


@live_in_0_16
def test_ranks_that_freed_memory_has_ended_are_known_and_the_second_run_is_compared(gradient: torch.Tensor) -> None:
    """If that has come to its end; a bug that has a limit ends no rank."""
    broken = Result(freed(BOTH), 1.0, {}, broken=Broken(1, "rank 1 raised ValueError('nan')", "the stacks"))
    for of, status in ((freed(BOTH), "known"), (replace(freed(), training=Training()), "error")):
        parity = Parity(of, Runs(broken, found(gradient, gradient, of)))
        with contextlib.suppress(pytest.fail.Exception, pytest.xfail.Exception):
            parity.finished()
        assert parity.verdict is not None
        assert (parity.verdict.status, "rank 1 raised" in parity.verdict.line) == (status, True)
    passing = Parity(freed(BOTH), Runs(broken, found(gradient, gradient, freed(BOTH))))
    passing.gradient_agrees(PARAMETER)
    assert passing.verdict is not None
    assert passing.verdict.status == "pass"
    both = Parity(freed(BOTH), Runs(broken, broken))
    with pytest.raises(pytest.fail.Exception):
        both.finished()
    assert broken.broken is not None
    for second, noted in ((found(gradient, gradient, freed(BOTH)), {}), (broken, {"case": broken.broken.exit_code})):
        report: Any = object.__new__(Report)
        report._tally, report._suite, report._running = Tally(), "case", Runs(broken, second)
        assert report._undecided(broken) is bool(noted)
        assert report._tally.broke == noted


@pytest.mark.parametrize(
    ("layout", "layers", "version", "refused"),
    [
        ("pp4", 2, "0.16.1", True),
        ("pp4", 2, "0.17.1", False),
        ("pp2", 2, "0.16.1", False),
        ("pp2vpp2", 2, "0.16.1", True),
        ("single", 3, "0.16.1", True),
        ("pp4", 1, "0.16.1", False),
        ("pp4", 2, "absent", False),
    ],
)
def test_what_a_bug_ends_is_refused_with_what_works(layout: str, layers: int, version: str, refused: bool) -> None:
    """Of the releases that have the bug."""
    training = Training(recompute="full").with_settings({"model.recompute_num_layers": layers})
    said = refusal(replace(case("local", layout), training=training), version)
    assert (said is not None) == refused
    assert said is None or "works, such as 1, and so does megatron-core 0.17; the nearest that can be compared is " in said


def test_the_nearest_that_a_bug_leaves_is_near() -> None:
    """As many layers at once as the stages allow; nothing is said of a case that runs."""
    by_fours = Training(recompute="full").with_settings({"model.recompute_num_layers": 4})
    found = {
        layout: nearest(replace(case("local", layout), training=by_fours), "0.16.1") for layout in ("pp4", "pp2", "single")
    }
    name = "model.recompute_num_layers"
    assert found == {"pp4": {name: 1}, "pp2": {name: 2}, "single": {}}


@pytest.mark.parametrize(
    ("shape", "options", "micro_batch_size", "releases"),
    [
        ("packed", {"recompute": "full"}, 1, ["0.16.1", "0.18.2"]),
        ("documents", {"recompute": "full"}, 1, []),
        ("packed", {"loss": "mean"}, 1, ["0.16.1"]),
        ("documents", {"loss": "mean"}, 1, ["0.16.1"]),
        ("documents", {"loss": "mean"}, 2, []),
        ("full", {"loss": "mean"}, 1, []),
    ],
)
def test_mtp_layers_of_documents_are_refused_for_the_releases_that_cannot_train_them(
    shape: str, options: dict[str, str], micro_batch_size: int, releases: list[str]
) -> None:
    """An exception in 0.18 and before, a division by 0 in 0.16 and before."""
    model = replace(TINY.model, num_nextn_predict_layers=1)
    one = replace(case("local", "single"), model=model, micro_batch_size=micro_batch_size)
    one = replace(one, training=Training(data_shape=shape, **options))  # type: ignore[arg-type]
    assert [version for version in ("0.16.1", "0.18.2", "0.19.2") if refusal(one, version)] == releases


@pytest.mark.parametrize(
    "bug", [one for one in table() if one.instead and "changes(" not in one.layouts], ids=lambda bug: bug.id
)
def test_every_bug_that_ends_a_run_names_what_is_near(bug: Known) -> None:
    """Settings that there are, with values that text can say: a recipe is compared with them. It has no second layout."""
    assert bug.nearest
    for given in bug.nearest:
        assert fields.entries().keys() >= given.keys()
        replace(case(), training=Training().with_settings(given))


def test_uneven_stages_are_asked_one_by_one() -> None:
    """Of 1 and 3 layers, or as a layout string says."""
    by_threes = Training(recompute="full").with_settings({"model.recompute_num_layers": 3})
    strings = {"Et|tttL": True, "EtttL": False}
    assert refusal(replace(case("local", "pp2"), training=replace(by_threes, stages=(1, 3))), "0.16.1")
    for text, refused in strings.items():
        whole = replace(TINY.model, num_hidden_layers=text.count("t"))
        one = replace(case("local", "pp2"), model=whole)
        training = by_threes.with_settings({"model.pipeline_model_parallel_layout": text})
        assert (refusal(replace(one, training=training), "0.16.1") is not None) == refused


@pytest.mark.parametrize(
    ("implementation", "layout", "version", "known"),
    [
        ("local-stock", "tp2", "0.16.1", ["shared-rope-key-not-reduced"]),
        ("local-stock", "tp2", "0.19.2", ["shared-rope-key-not-reduced"]),
        ("local-stock", "tp2", "0.20.0", []),
        ("local-stock", "single", "0.16.1", []),
        ("local", "tp2", "0.16.1", []),
        ("local", "tp2etp1", "0.16.1", ["expert-gradients-not-reduced"]),
        ("local", "tp2etp1", "0.18.2", ["expert-gradients-not-reduced"]),
        ("local", "tp2etp1", "0.19.0", []),
        ("local", "tp2ep2", "0.16.1", []),
    ],
)
def test_an_entry_applies_by_version_layout_and_implementation(
    implementation: str, layout: str, version: str, known: list[str]
) -> None:
    """All three must fit."""
    assert [bug.id for bug in known_bugs(case(implementation, layout), version)] == known


@pytest.mark.parametrize("bug", table(), ids=lambda bug: bug.id)
def test_every_entry_names_checks_that_exist(bug: Any) -> None:
    """A pattern that matches no check would excuse nothing and never be removed."""
    with_mtp = replace(case(), model=replace(TINY.model, num_nextn_predict_layers=1))
    names = [f"gradients/{name}" for name, parameter in parameters(with_mtp.model).items() if parameter.trained]
    names += observed(with_mtp)
    names += [f"probe_gradients/{name}" for name, probe in probes(TINY.model, 8, 48).items() if probe.has_gradient]
    names += [f"probe_gradients/{name}" for name in observed(with_mtp)]
    names += observed(replace(case(), training=Training(balancing="seq_aux_loss")))
    names.append(latent_norms.NAME)
    names += [one.name for one in stepped(replace(case(), training=Training(steps=1))).values()]
    names += inferred(replace(case(layout="single"), training=Training(inference="dynamic")))
    for pattern in bug.checks:
        alone = replace(bug, checks=(pattern,))
        assert any(alone.must_fail(case(of), name) for of in ("local", "local-stock", "te") for name in names)


@pytest.mark.parametrize(
    ("built", "given", "status"), [(1e-5, 1e-6, "known"), (1e-6, 1e-6, "fail"), (1e-5, 1e-5, "fail"), (1e-3, 1e-3, "fail")]
)
def test_a_value_that_every_run_is_given_is_judged_in_the_same_run(built: float, given: float, status: str) -> None:
    """No second run is asked. One that is right is upstream mended; one that the ranks compute with must be the reference's."""
    of = replace(case("local"), model=replace(TINY.model, rms_norm_eps=1e-5))
    reference = torch.full(latent_norms.shape(of.model), 1e-6, dtype=torch.float64)
    pieces: dict[str, tuple[PieceReport, ...]] = {}
    for name, value in ((latent_norms.NAME, built), (latent_norms.GIVEN + latent_norms.NAME, given)):
        box = whole(reference.shape)
        pieces[name] = (PieceReport(0, box, measure(torch.full_like(reference, value), reference, box), str(value)),)
    runs = Runs(Result(of, 1.0, {}, pieces=pieces), Result(of, 1.0, {}))
    parity = Parity(of, runs)
    with pytest.raises((pytest.fail.Exception, pytest.xfail.Exception)):
        parity.latent_epsilon_agrees()
    assert parity.verdict is not None
    assert (parity.verdict.status, runs.asked_without) == (status, [])
