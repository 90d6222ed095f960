"""The rules that schedules of the learning rate and the weight decay set.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None.
"""

from __future__ import annotations

from collections.abc import Sequence

from validation.case.case import Case
from validation.case.schedule import CONSTANT, DECAY_STYLES, STYLES, WSD_STYLES, Schedule
from validation.case.suggestions import join


def schedule_can_run(case: Case) -> str | None:
    """megatron-core's scheduler asserts most of this when it is made, in every rank, without a sentence."""
    if not case.training.steps:
        return None
    schedule = Schedule.of(case.training)
    return _styles(schedule) or _rates(schedule) or _lengths(schedule) or _weight_decay(schedule)


def rates_can_be(case: Case) -> str | None:
    """The part that holds whatever steps a case takes: a recipe that breaks it cannot train.

    Lengths count if the recipe says how long its schedule is.
    """
    schedule, lengths = Schedule.of(case.training), "lr_decay_steps" in case.training.effective("scheduler")
    return _rates(schedule) or _weight_decay(schedule) or (_styles(schedule) or _lengths(schedule) if lengths else None)


def _styles(schedule: Schedule) -> str | None:
    return (
        _unknown("lr_decay_style", schedule.style, STYLES)
        or _unknown("wd_incr_style", schedule.wd_style, DECAY_STYLES)
        or (_unknown("lr_wsd_decay_style", schedule.wsd_style, WSD_STYLES) if schedule.style == "WSD" else None)
    )


def _unknown(name: str, value: str | None, known: Sequence[str]) -> str | None:
    if value in known:
        return None
    said = "is not given" if value is None else f"is {value!r}"
    return f"scheduler.{name} {said}; give {join(known, 'or')}"


def _rates(schedule: Schedule) -> str | None:
    """Rates rise to the largest and fall to the smallest."""
    pairs = {"": (schedule.max_lr, schedule.min_lr), "decoupled_": schedule.decoupled or (0.0, 0.0)}
    for which, (largest, least) in pairs.items():
        if largest < 0:
            return f"optimizer.{which}lr is {largest:g}; give a rate of 0 or more"
        if not 0 <= least <= largest:
            return (
                f"optimizer.{which}min_lr is {least:g} and optimizer.{which}lr {largest:g}; give a smallest rate from 0 to "
                f"{largest:g}"
            )
    if schedule.warmup and not 0 <= schedule.init_lr <= schedule.max_lr:
        return f"scheduler.init_lr is {schedule.init_lr:g}; warm-up begins with a rate from 0 to {schedule.max_lr:g}"
    return None


def _lengths(schedule: Schedule) -> str | None:
    """Lengths are steps, and warm-up ends before decay does."""
    warmup, decay, last = schedule.warmup, schedule.decay_steps, schedule.wsd_steps
    if warmup < 0 or decay < 1 or warmup >= decay:
        return (
            f"scheduler.lr_warmup_steps is {warmup} and scheduler.lr_decay_steps {decay}; warm-up takes 0 steps or more and "
            "ends before decay does"
        )
    if schedule.style == "WSD" and (last is None or not 1 <= last <= decay):
        said = "not given" if last is None else last
        return f"scheduler.wsd_decay_steps is {said}; WSD needs a number from 1 to {decay}, which is scheduler.lr_decay_steps"
    return None


def _weight_decay(schedule: Schedule) -> str | None:
    """Weight decay grows, or stays."""
    start, end = schedule.start_wd, schedule.end_wd
    if not 0 <= start <= end:
        return f"scheduler.start_wd is {start:g} and scheduler.end_wd {end:g}; weight decay is 0 or more and may only grow"
    if schedule.wd_style == CONSTANT and start != end:
        return (
            f"scheduler.start_wd is {start:g} and scheduler.end_wd {end:g}, and a constant weight decay needs both equal; "
            "scheduler.wd_incr_style=linear grows from one to the other"
        )
    if schedule.wd_style != CONSTANT and schedule.wd_steps < 1:
        return f"scheduler.wd_incr_steps is {schedule.wd_steps}; give 1 or more"
    return None


RULES = (schedule_can_run,)
