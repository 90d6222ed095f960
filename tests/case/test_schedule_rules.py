"""A schedule that megatron-core would refuse in every rank is refused before the start, in a sentence."""

from __future__ import annotations

import pytest

from validation.case import preflight
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.steps import stepped
from validation.run.options import parsed


def case(*settings: str, steps: int = 3) -> Case:
    given = [part for setting in settings for part in ("--config", setting)]
    (found,) = parsed(["--layouts", "single", "--steps", str(steps), *given]).cases
    return found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("scheduler.lr_decay_style=step",), "constant, linear, cosine, inverse-square-root and WSD can"),
        (("scheduler.lr_decay_style=WSD",), "scheduler.lr_wsd_decay_style is not given; give linear, cosine, exponential or"),
        (
            ("scheduler.lr_decay_style=WSD", "scheduler.lr_wsd_decay_style=linear"),
            "wsd_decay_steps is not given; WSD needs a number from 1 to 3",
        ),
        (
            ("scheduler.lr_decay_style=WSD", "scheduler.lr_wsd_decay_style=linear", "scheduler.wsd_decay_steps=4"),
            "wsd_decay_steps is 4; WSD needs a number from 1 to 3",
        ),
        (("optimizer.lr=-0.01",), "optimizer.lr is -0.01; give a rate of 0 or more"),
        (("optimizer.min_lr=0.5",), "optimizer.min_lr is 0.5 and optimizer.lr 0.01; give a smallest rate from 0 to 0.01"),
        (
            ("optimizer.decoupled_lr=0.1", "optimizer.decoupled_min_lr=0.2"),
            "optimizer.decoupled_min_lr is 0.2 and optimizer.decoupled_lr 0.1",
        ),
        (("scheduler.lr_warmup_steps=1", "scheduler.init_lr=0.5"), "scheduler.init_lr is 0.5; warm-up begins with"),
        (("scheduler.lr_warmup_steps=3", "scheduler.lr_decay_steps=3"), "lr_warmup_steps is 3 and scheduler.lr_decay_steps 3"),
        (("scheduler.lr_warmup_steps=-1",), "takes 0 steps or more"),
        (("scheduler.start_wd=0.01",), "a constant weight decay needs both equal; scheduler.wd_incr_style=linear grows"),
        (("scheduler.wd_incr_style=linear", "scheduler.start_wd=0.5"), "weight decay is 0 or more and may only grow"),
        (("scheduler.wd_incr_style=linear", "scheduler.wd_incr_steps=0"), "scheduler.wd_incr_steps is 0; give 1 or more"),
    ],
)
def test_what_cannot_run_is_refused(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        preflight.check(case(*settings), max_ranks=1, gpus=None, memory=None)
    assert said in str(refused.value)


def test_warm_up_may_take_all_steps() -> None:
    """Unless a length of the decay is given, it ends behind warm-up and the case."""
    assert case("scheduler.lr_warmup_steps=9").training.settings == (("scheduler.lr_warmup_steps", 9),)


def test_rates_are_checks_if_a_schedule_changes_them() -> None:
    """Two more a step, in front of what the step leaves; a case without a schedule has the checks that it had."""
    titles = [one.title for one in stepped(case("scheduler.lr_decay_style=cosine")).values()]
    assert titles[:3] == ["Step 1 Learning Rates", "Step 1 Weight Decays", "Step 1 Gradient Norm"]
    assert len(titles) == len(stepped(case())) + 6
