"""Rates by hand, and those of megatron-core's own scheduler over whole schedules."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

import tests.core  # noqa: F401 - megatron-core as the ranks have it
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.schedule import DECAY_STYLES, STYLES, WSD_STYLES, Schedule
from validation.case.training import Training
from validation.reference.schedule import learning_rate, rates, weight_decay


def schedule(steps: int = 8, **given: Any) -> Schedule:
    """Of settings, whose section is written with two underscores."""
    settings = {name.replace("__", "."): value for name, value in given.items()}
    return Schedule.of(Training(steps=steps).with_settings(settings))


def test_warm_up_begins_at_its_first_rate_and_ends_at_the_largest() -> None:
    """The rate of the first step is that of no step done: upstream's scheduler moves behind the step."""
    of = schedule(optimizer__lr=0.8, scheduler__lr_warmup_steps=4, scheduler__init_lr=0.4, scheduler__lr_decay_style="linear")
    assert [learning_rate(of, done) for done in range(7)] == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.6, 0.4])


@pytest.mark.parametrize(
    ("style", "half"), [("linear", 0.5), ("cosine", 0.5), ("exponential", math.sqrt(2) - 1), ("minus_sqrt", 1 - math.sqrt(0.5))]
)
def test_wsd_stays_and_then_falls(style: str, half: float) -> None:
    of = schedule(
        optimizer__lr=1.0,
        optimizer__min_lr=0.2,
        scheduler__lr_decay_style="WSD",
        scheduler__wsd_decay_steps=4,
        scheduler__lr_wsd_decay_style=style,
    )
    found = [learning_rate(of, done) for done in (0, 4, 6, 8, 9)]
    assert found == pytest.approx([1.0, 1.0, 0.2 + 0.8 * half, 0.2, 0.2])


def test_weight_decay_grows() -> None:
    of = schedule(steps=4, scheduler__start_wd=0.0, scheduler__end_wd=0.4, scheduler__wd_incr_style="cosine")
    assert [weight_decay(of, done) for done in (0, 2, 4, 9)] == pytest.approx([0.0, 0.2, 0.4, 0.4])


def test_embedding_and_output_head_may_have_a_rate_of_their_own() -> None:
    """What has one dimension does not decay."""
    known = parameters(TINY.model)
    of = schedule(optimizer__lr=0.1, optimizer__decoupled_lr=0.3)
    names = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight")
    assert [rates(of, known[name], 0) for name in names] == [(0.3, 0.1), (0.3, 0.1), (0.1, 0.0)]


def test_a_case_without_a_schedule_is_steady() -> None:
    """Then its rates are no checks, and its checks what they were."""
    assert schedule().is_steady
    assert not schedule(scheduler__lr_warmup_steps=1).is_steady
    assert not schedule(optimizer__decoupled_lr=0.1).is_steady


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("warmup", [0, 3])
def test_all_rates_are_those_of_megatron_cores_scheduler(style: str, warmup: int) -> None:
    """From the first step to two behind the end, with groups that have rates and decays of their own."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    for number, grown in enumerate(DECAY_STYLES):
        given: dict[str, Any] = {"scheduler.wd_incr_style": grown, "scheduler.start_wd": 0.1 if grown == "constant" else 0.02}
        if style == "WSD":
            given |= {"scheduler.wsd_decay_steps": 5, "scheduler.lr_wsd_decay_style": WSD_STYLES[number + (warmup > 0)]}
        of = Schedule.of(
            Training(steps=9).with_settings(
                {
                    "scheduler.lr_decay_style": style,
                    "scheduler.lr_warmup_steps": warmup,
                    "scheduler.init_lr": 0.001,
                    "optimizer.min_lr": 0.002,
                    "optimizer.decoupled_lr": 0.05,
                    **given,
                }
            )
        )
        groups: list[dict[str, Any]] = [
            {"max_lr": of.max_lr, "min_lr": of.min_lr, "wd_mult": 1.0},
            {"max_lr": 0.05, "min_lr": of.min_lr, "wd_mult": 0.0},
        ]
        theirs = OptimizerParamScheduler(SimpleNamespace(param_groups=groups), **of.arguments)
        for done in range(12):
            ours = [learning_rate(of, done), learning_rate(of, done, decoupled=True), weight_decay(of, done), 0.0]
            found = [groups[0]["lr"], groups[1]["lr"], groups[0]["weight_decay"], groups[1]["weight_decay"]]
            assert ours == pytest.approx(found, rel=1e-13)
            theirs.step(1)
