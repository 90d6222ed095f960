"""Settings that a user gives without a recipe: those that nothing shows are said, with why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from validation.case.case import Case
from validation.case.covered import HIDDEN, NO_STEPS
from validation.recipe import coverage, given
from validation.recipe.coverage import Ran
from validation.run.options import parsed

MEASURED = {"model.moe_z_loss_coeff=0.001": {"lines": {"single": 3}, "read": True}}


def cases(*words: str, layouts: str = "single") -> tuple[Case, ...]:
    return parsed(["--layouts", layouts, *words]).cases


def said(*words: str, layouts: str = "single", **how: Any) -> dict[str, str]:
    return given.not_shown([replace(Ran(case, "0.0", True), **how) for case in cases(*words, layouts=layouts)])


@pytest.mark.parametrize(
    ("setting", "layouts", "why"),
    [
        ("model.moe_pad_expert_input_to_capacity=true", "single", "model.moe_expert_capacity_factor=null"),
        ("model.cross_entropy_fusion_impl=native", "tp2", "model.cross_entropy_loss_fusion=false"),
        ("ddp.check_for_large_grads=true", "single", ""),
    ],
)
def test_what_nothing_reads_is_said_as_for_a_recipe(setting: str, layouts: str, why: str) -> None:
    """A field is read with another one alone, which is at rest."""
    found = said("--config", setting, layouts=layouts)
    assert (found[setting] == f"nothing reads it with {why}") is bool(why)


def test_it_is_read_if_a_case_has_the_other_field() -> None:
    """A layout's own words count."""
    setting = "model.mtp_loss_scaling_factor=0.1"
    alone, beside = "single", "single,single+mtp"
    assert said("--config", setting, layouts=alone)[setting] == "nothing reads it with model.mtp_num_layers=null"
    assert not said("--config", setting, layouts=beside)[setting].startswith("nothing reads it")


def test_what_fp64_hides_and_what_needs_a_step_is_said() -> None:
    words = ("--config", "model.moe_router_dtype=fp32", "--config", "optimizer.lr=0.002")
    assert said(*words, "--steps", "0") == {"model.moe_router_dtype=fp32": HIDDEN, "optimizer.lr=0.002": NO_STEPS}
    unable = said("--config", "optimizer.optimizer=sgd", "--steps", "0", layouts="dp2+distributed")
    assert unable["optimizer.optimizer=sgd"].startswith(
        "no optimizer steps can be taken: optimizer.optimizer=sgd cannot be dist"
    )
    shown = said(*words, "--precision", "bf16")
    assert shown["model.moe_router_dtype=fp32"].startswith("not measured with megatron-core 0.0")


def test_what_has_an_effect_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything of a run that sets nothing, or whose effects were measured with another implementation."""
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": MEASURED})
    assert said("--config", "model.moe_z_loss_coeff=0.001", layouts="tp2+seqaux") == {}
    assert said("--config", "model.moe_z_loss_coeff=0.001", layouts="tp2+seqaux", passed=False) == {}
    assert said() == {}
    assert said("--config", "model.bias_dropout_fusion=true", "--implementation", "local-stock") == {}


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("softmax_scale", 0.5, "the reference does not have it, and every check passes"),
        ("activation_func_clamp_value", 10.0, "the reference does not have it, and every check passes"),
        ("tensor_model_parallel_size", 2, "the reference does not have it, and every check passes"),
        ("moe_aux_loss_coeff", 0.1, "nothing reads it with model.moe_router_load_balancing_type=none"),
        ("moe_router_dtype", None, HIDDEN),
        ("moe_router_bias_update_rate", 0.1, NO_STEPS),
        ("test_mode", True, "it reaches no number of a step"),
        ("variable_seq_lengths", True, "megatron-core runs the same lines with it and without it"),
        ("of_the_plugins_own", 1, None),
    ],
)
def test_what_a_plugin_sets_and_no_check_shows_is_said(
    field: str, value: Any, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing check may show it, and so may one that was left out."""
    silent = {"model.variable_seq_lengths=true": {"lines": {"single": 0}, "read": True}}
    monkeypatch.setattr(coverage, "table", lambda: {"0.0": silent})
    ran, values = Ran(cases("--steps", "0")[0], "0.0", True, overwritten=(f"model.{field}",)), {f"model.{field}": value}
    assert list(given.hidden(ran, values).values()) == ([] if why is None else [why])
    assert given.hidden(replace(ran, passed=False), values) == given.hidden(replace(ran, left_out=1), values) == {}


def test_what_a_plugin_sets_with_an_effect_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        coverage, "table", lambda: {"0.0": {"model.bias_dropout_fusion=true": {"lines": {"single": 3}, "read": True}}}
    )
    assert given.hidden(Ran(cases()[0], "0.0", True), {"model.bias_dropout_fusion": True}) == {}


def test_a_reason_is_a_line() -> None:
    ran = [
        Ran(case, "0.0", True)
        for case in cases("--config", "optimizer.lr=0.002", "--config", "optimizer.adam_eps=1e-7", "--steps", "0")
    ]
    assert list(given.lines(given.not_shown(ran))) == [
        f"not exercised here: optimizer.adam_eps=1e-07, optimizer.lr=0.002 ({NO_STEPS})"
    ]
    assert given.said(given.not_shown(ran)) == f"optimizer.adam_eps=1e-07, optimizer.lr=0.002 ({NO_STEPS})"
