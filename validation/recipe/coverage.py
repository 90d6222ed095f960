"""How much of a recipe was compared: a word for each of its settings, and whether the word is earned is measured.

EQUAL: the switch was set, megatron-core ran other lines with it or read its value (`exercised.json`, as `python -m validation
exercised` measures it), and every check passed. DIFFERENT: it was set, and a check failed. NOT_EXERCISED: it was set, and none
of megatron-core's lines ran otherwise: equal numbers prove nothing. NEEDS: it was not set, for it needs what is not here.
NOT_COMPARED: it was not set, for no formula or no place stands for it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from validation.case.case import Case
from validation.case.schedule import CONSTANT, Schedule
from validation.case.settings import written
from validation.recipe.trial import ABSENT, NEEDS, REFUSED, SAME, TRIED, UNREAD, Told, Trial

EQUAL, DIFFERENT, NOT_EXERCISED = "equal", "different", "not exercised here"
NEEDED, NOT_COMPARED = "needs", "cannot be compared"
WORDS = (DIFFERENT, EQUAL, NOT_EXERCISED, NEEDED, NOT_COMPARED)
"""In the order in which they are told."""
TABLE = Path(__file__).with_name("exercised.json")


@dataclass(frozen=True)
class Covered:
    """A setting, its word, and why it has no better one."""

    told: Told
    word: str
    why: str = ""


@dataclass(frozen=True)
class Ran:
    """What was run of a recipe: its cases, with which megatron-core, and whether no check failed."""

    cases: Sequence[Case]
    release: str
    passed: bool

    @property
    def in_lane(self) -> bool:
        """Whether a case shows what fp64 hides."""
        return any(case.precision != "fp64" for case in self.cases)

    @property
    def steps(self) -> bool:
        """Whether a case takes optimizer steps."""
        return any(case.training.steps > 0 for case in self.cases)

    def has(self, layout: str) -> bool:
        """Whether what shows in a layout of `exercised.json` shows in these cases, too."""
        degrees = [case.layout for case in self.cases]
        spread = {"tp2ep2": any(max(one.tp, one.ep) > 1 for one in degrees), "pp2vpp2": any(one.pp > 1 for one in degrees)}
        return spread.get(layout, True)


def covered(trial: Trial, ran: Ran) -> tuple[Covered, ...]:
    """Every setting that could change a number, but for those that are as in every case of Plumbline's."""
    return tuple(_covered(trial, ran))


def _covered(trial: Trial, ran: Ran) -> Iterator[Covered]:
    for told in trial.told:
        if told.state in (REFUSED, ABSENT):
            yield Covered(told, NOT_COMPARED, told.why)
        elif told.state == UNREAD:
            yield Covered(told, NOT_EXERCISED, told.why)
        elif told.state == NEEDS:
            yield Covered(told, NEEDED, told.why)
        elif told.state == TRIED:
            yield _tried(trial, told, ran)


def _tried(trial: Trial, told: Told, ran: Ran) -> Covered:
    name = told.setting.name
    if name in trial.lanes and not ran.in_lane:
        return Covered(told, NOT_EXERCISED, "fp64 hides it; --precision bf16 shows it")
    if reason := not_exercised(name, told.setting.value, ran, by_reading=name in trial.lanes):
        return Covered(told, NOT_EXERCISED, reason)
    return Covered(told, EQUAL if ran.passed else DIFFERENT)


_OF_A_STEP = ("optimizer.", "scheduler.", "model.moe_router_bias_update_rate")
_IN_EACH_STEP = ("scheduler.start_wd", "scheduler.end_wd")
_OF_WARMUP = ("scheduler.lr_warmup_steps", "scheduler.init_lr")
_OF_WEIGHT_DECAY = ("scheduler.wd_incr_steps", "scheduler.wd_incr_style")
_OF_PARAMETER_GROUPS = ("scheduler.max_lr", "scheduler.min_lr")


def not_exercised(name: str, value: Any, ran: Ran, *, by_reading: bool = False) -> str:
    """Why a setting of cases with the default implementation has no effect that was measured, nothing if it has one.

    `by_reading`: it is a dtype, with which the same lines compute something else.
    """
    if name.startswith(_OF_A_STEP) and not ran.steps:
        return "no optimizer steps were taken; --steps 2 takes them"
    if name.startswith("scheduler."):
        return min((_not_scheduled(name, case) for case in ran.cases if case.training.steps), key=len, default="")
    measured, measure = table().get(ran.release), f"`python -m validation exercised --only {name}` measures it"
    if measured is None:
        return f"not measured with megatron-core {ran.release}; {measure}"
    of_value = measured.get(f"{name}={written(value)}")
    of_field = [of_value] if of_value else [found for said, found in measured.items() if said.partition("=")[0] == name]
    if not of_field:
        return f"not measured; {measure}"
    if any(_shows(found, value, ran, by_reading) for found in of_field):
        return ""
    if broken := [found["broke"] for found in of_field if found.get("broke")]:
        return f"alone it does not run in a small case: {broken[0]}"
    return "megatron-core runs the same lines with it and without it"


def _not_scheduled(name: str, case: Case) -> str:
    """Why an argument of the scheduler, which nobody reads as a field, is in no number of the case's steps."""
    schedule, last = Schedule.of(case.training), case.training.steps - 1
    if name in _IN_EACH_STEP:
        return ""
    if name in _OF_PARAMETER_GROUPS:
        return f"parameter groups have optimizer.{name.removeprefix('scheduler.').removeprefix('max_')}"
    if name in _OF_WARMUP:
        return "" if schedule.warmup else "there is no warm-up here"
    if name in _OF_WEIGHT_DECAY:
        return "" if schedule.wd_style != CONSTANT else "weight decay is constant here, and does not read it"
    if schedule.style == CONSTANT:
        return "the schedule is constant here, and does not read it"
    begins = max(schedule.warmup, schedule.decay_steps - (schedule.wsd_steps or 0) if schedule.style == "WSD" else 0)
    return "" if last > begins else "every step of the case comes before the rate falls"


def _shows(found: Mapping[str, Any], value: Any, ran: Ran, by_reading: bool) -> bool:
    """Whether other lines run in a layout like that of the cases, or a number or a name is read."""
    lines = any(count for layout, count in found["lines"].items() if ran.has(layout))
    return lines or (found["read"] and (by_reading or not isinstance(value, bool)))


@functools.cache
def table() -> Mapping[str, Mapping[str, Any]]:
    """What was measured, by release and setting."""
    found: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def counts(found: Sequence[Covered]) -> str:
    """`18 equal, 2 not exercised here, 11 need what is not here, 6 cannot be compared`."""
    shown = {NEEDED: "need what is not here"}
    number = {word: sum(one.word == word for one in found) for word in WORDS}
    return ", ".join(f"{number[word]} {shown.get(word, word)}" for word in WORDS if number[word])


def lines(trial: Trial, found: Sequence[Covered]) -> Iterator[str]:
    """What the end of a run says of a recipe."""
    usual = len(trial.of(SAME))
    as_usual = f"; {usual} more are as in every case of Plumbline's" if usual else ""
    yield f"Recipe {trial.recipe.source}: {len(found)} settings, {counts(found)}{as_usual}"
    for word in (NOT_EXERCISED, NEEDED, NOT_COMPARED):
        listed = sorted((one for one in found if one.word == word), key=lambda one: one.why)
        for why, ones in groupby(listed, key=lambda one: one.why):
            said = ", ".join(one.told.said for one in ones)
            yield f"  {word}: {said} ({why})" if said not in why else f"  {word}: {why}"
    if trial.recipe.unknown:
        yield f"  unknown to Megatron-LM's parser, and not read: {', '.join(flag.text for flag in trial.recipe.unknown)}"
