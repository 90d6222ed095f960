"""A recipe that cannot run as it is gets the verdict of the nearest that can, which says so."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.recipe.test_trial import FLAGS
from validation.case.case import Case
from validation.case.covered import NOT_COMPARED
from validation.case.errors import ExitCode
from validation.case.settings import written
from validation.checks.conclusion import Conclusion
from validation.recipe.coverage import covered, sets
from validation.recipe.told import CHANGED, TRIED
from validation.run import known, nearest
from validation.run.options import Settings, parsed

BY_FOURS = " --recompute-granularity full --recompute-method uniform --recompute-num-layers 4"
NUMBER = "model.recompute_num_layers"


def wanted(folder: Path, *more: str, flags: str = "") -> Settings:
    path = folder / "my run.txt"
    path.write_text(FLAGS.replace("--recompute-granularity selective --recompute-modules mla_up_proj layernorm", "") + flags)
    return parsed(["--recipe", str(path), "--world-size", "8", *more])


@pytest.fixture
def with_the_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "version_of", lambda name: "0.16.1")


@pytest.mark.usefixtures("with_the_bug")
def test_a_setting_that_a_bug_ends_a_run_with_is_changed_and_said(tmp_path: Path) -> None:
    """At full size four layers at once may be right: the stages of the stand-in are shorter."""
    found = wanted(tmp_path, flags=BY_FOURS)
    trial = found.trial
    assert trial is not None
    assert known.refusal(found.cases[0]) is None
    (one,) = trial.of(CHANGED)
    there = found.cases[0].training.effective("model")["recompute_num_layers"]
    assert one.said == f"{NUMBER}=4"
    assert there != 4
    assert one.why.startswith("known upstream bug: uniform recomputation asks ")
    assert one.why.endswith(f"; compared with {there} instead")
    assert not sets(found.cases[0], one)
    assert {told.told.said: told.word for told in covered(trial, ())}[one.said] == NOT_COMPARED
    assert all(case.training.settings == found.cases[0].training.settings for case in found.cases)


@pytest.mark.usefixtures("with_the_bug")
def test_what_a_user_gives_is_not_changed(tmp_path: Path) -> None:
    """It is refused, with the nearest in the sentence."""
    found = wanted(tmp_path, "--config", f"{NUMBER}=4", flags=BY_FOURS)
    assert found.trial is not None
    assert found.trial.of(CHANGED) == ()
    assert "the nearest that can be compared is " in str(known.refusal(found.cases[0]))


def test_a_recipe_that_runs_is_left_as_it_is(tmp_path: Path) -> None:
    found = wanted(tmp_path)
    assert nearest.accepted(found, lambda case: "") is found
    assert found.trial is not None
    assert found.trial.of(CHANGED) == ()


def refusing(names: Collection[str], asked: list[Case]) -> Any:
    """Refuses a case that sets all of these."""

    def refusal(case: Case) -> str:
        asked.append(case)
        return "no such pair" if set(names) <= {name for name, _ in case.training.settings} else ""

    return refusal


def test_what_megatron_core_refuses_together_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    """Of every case, and the word of both settings says why."""
    pair = ("ddp.overlap_grad_reduce", "optimizer.clip_grad")
    before = wanted(tmp_path, "--config", "model.moe_z_loss_coeff=0.01")
    found = nearest.accepted(before, refusing(pair, []))
    assert before.trial is not None
    assert found.trial is not None
    assert {one.setting.name for one in found.trial.of(CHANGED)} == set(pair)
    assert {one.why for one in found.trial.of(CHANGED)} == {"no such pair; compared without it"}
    assert len(found.trial.of(TRIED)) == len(before.trial.of(TRIED)) - 2
    for old, new in zip(before.cases, found.cases, strict=True):
        assert dict(new.training.settings) == {name: value for name, value in old.training.settings if name not in pair}
        assert (new.training.steps, new.precision) == (old.training.steps, old.precision)


@pytest.mark.parametrize(
    ("modules", "left"),
    [("mlp mla_up_proj layernorm", ("mlp", "layernorm")), ("mla_up_proj", None)],
    ids=["one of three", "the only one"],
)
def test_a_list_keeps_what_is_not_refused(tmp_path: Path, modules: str, left: tuple[str, ...] | None) -> None:
    """As Megatron-Core would refuse mla_up_proj with another attention."""
    before = wanted(tmp_path, flags=f" --recompute-granularity selective --recompute-modules {modules}")

    def refusal(case: Case) -> str:
        return "no such module" if "mla_up_proj" in str(case.training.effective("model")["recompute_modules"]) else ""

    found = nearest.accepted(before, refusal)
    assert found.trial is not None
    said = f"compared with {written(left)} instead" if left else "compared without it"
    changed = {one.setting.name: one.why for one in found.trial.of(CHANGED)}
    assert changed == {"model.recompute_modules": f"no such module; {said}"}
    for case in found.cases:
        model = case.training.effective("model")
        assert (model["recompute_granularity"], model["recompute_modules"]) == ("selective", left)


def test_what_others_are_read_by_stays_if_it_can(tmp_path: Path) -> None:
    """Without recompute_granularity nothing would be recomputed, and the recipe's other words on it would be idle."""
    before = wanted(tmp_path, flags=BY_FOURS + " --distribute-saved-activations")

    def refusal(case: Case) -> str:
        model = case.training.effective("model")
        bad = model["recompute_granularity"] and (model.get("distribute_saved_activations") or not model["recompute_method"])
        return f"refused {case.name}: recompute_granularity with distribute_saved_activations" if bad else ""

    found = nearest.accepted(before, refusal).trial
    assert found is not None
    assert [one.setting.name for one in found.of(CHANGED) if one.setting.name != NUMBER] == [
        "model.distribute_saved_activations"
    ]


def test_what_goes_with_a_setting_that_is_not_here_is_left_out_for_a_manifest_too(tmp_path: Path) -> None:
    """Megatron-Core takes moe_act with grouped experts alone, and those need Transformer Engine."""
    found = wanted(tmp_path, "--config", "model.moe_z_loss_coeff=0.01", flags=MODULES)
    assert found.trial is not None
    (one,) = found.trial.of(CHANGED)
    assert one.why.startswith(
        "moe_act goes with model.moe_grouped_gemm=true, which needs Transformer Engine; compared with [mla_up"
    )
    assert dict(found.cases[0].training.settings)["model.recompute_modules"] == ("mla_up_proj",)
    assert found.trial.changed([], {}, "").training.settings == found.trial.training.settings


MODULES = " --recompute-granularity selective --recompute-modules mla_up_proj moe_act"


def test_what_is_refused_without_any_setting_is_left_to_the_preflight(tmp_path: Path) -> None:
    found = wanted(tmp_path)
    assert nearest.accepted(found, refusing((), [])) is found


@pytest.mark.usefixtures("with_the_bug")
def test_the_end_of_a_run_says_that_it_is_not_the_recipe_itself(tmp_path: Path) -> None:
    """Behind the verdict, and in a line of its own."""
    settings = wanted(tmp_path, flags=BY_FOURS)
    tally: Any = SimpleNamespace(checks=2, counts={"pass": 2}, exit_code=ExitCode.PASS, word="PASS", first={})
    of = cast("Any", Conclusion)(settings, None, None, tally, {}, (), {}, 1.0, 0, 2, False)
    without = f"model.hidden_dropout=0.1, {NUMBER}=4, --foo-bar 3"
    assert of._overall()[0] == (
        f"===== Overall result: PASS (2 cases, 2 checks, not the recipe itself: compared without {without}, 1.0 s) ====="
    )
    (line,) = (text for text, _ in of._nearest())
    assert line == f"Not the recipe itself: compared without model.hidden_dropout=0.1, {NUMBER}=4 and --foo-bar 3"
