"""How much of a recipe was compared: a word for each of its settings, and whether the word is earned is measured.

EQUAL: the switch was set, megatron-core ran other lines with it or read its value (`exercised.json`, as `python -m validation
exercised` measures it), and every check passed. DIFFERENT: it was set, and a check failed, or a known upstream bug of this
switch showed. NOT_EXERCISED: it was set, and none of megatron-core's lines ran otherwise: equal numbers prove nothing.
NEEDS: it was not set, for it needs what is not here. NOT_COMPARED: it was not set, for no formula or no place stands for it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as made
from itertools import groupby
from pathlib import Path
from typing import Any

from validation.case import covered as said
from validation.case import declared, fields, graphs
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.covered import DIFFERENT, EQUAL, NEEDED, NOT_COMPARED, NOT_EXERCISED, Word
from validation.case.data import DOCUMENTS
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.preflight import RULES
from validation.case.schedule import CONSTANT, Schedule
from validation.case.settings import SECTIONS, written
from validation.recipe import documents, tries
from validation.recipe.recipe import Setting, Source
from validation.recipe.told import NEEDS, SAME, SHAPED, TRIED, UNREAD, Told, initial
from validation.recipe.trial import Trial

TABLE = Path(__file__).with_name("exercised.json")


@dataclass(frozen=True)
class Covered:
    """A setting, its word, and why it has no better one."""

    told: Told
    word: str
    why: str = ""


@dataclass(frozen=True)
class Ran:
    """A case that was run of a recipe, with which megatron-core, and whether every check passed.

    `left_out` is how many checks were not made. `overwritten` are the settings that a plugin sets otherwise. `bugs` has the
    settings whose known upstream bugs showed, with what these are.
    """

    case: Case
    release: str
    passed: bool
    left_out: int = 0
    overwritten: tuple[str, ...] = ()
    bugs: Mapping[str, str] = made(default_factory=dict)

    @property
    def in_lane(self) -> bool:
        """Whether the case shows what fp64 hides."""
        return self.case.precision != "fp64"

    @property
    def steps(self) -> bool:
        """Whether the case takes optimizer steps."""
        return self.case.training.steps > 0

    def has(self, layout: str) -> bool:
        """Whether what shows in a layout of `exercised.json` shows in this case, too."""
        degrees = self.case.layout
        several = degrees.data_parallel * degrees.cp
        found = {"tp2ep2": max(degrees.tp, degrees.ep) > 1, "pp2vpp2": degrees.pp > 1, "dp4": several > 1}
        return found.get(layout, True)


def covered(trial: Trial, ran: Sequence[Ran]) -> tuple[Covered, ...]:
    """Every setting that could change a number, but for those that are as in every case of Plumbline's."""
    return tuple(_covered(trial, ran))


def _covered(trial: Trial, ran: Sequence[Ran]) -> Iterator[Covered]:
    for told in trial.told:
        if told in trial.others:
            yield Covered(told, NOT_COMPARED, told.why)
        elif told.state == UNREAD:
            yield Covered(told, NOT_EXERCISED, told.why)
        elif told.state == NEEDS:
            yield Covered(told, NEEDED, told.why)
        elif told.state == SHAPED:
            yield _judged(told, [one for one in ran if sets(one.case, told)])
        elif told.state == TRIED:
            yield tried(told, ran, in_lane=told.setting.name in trial.lanes)


_OF_A_STEP = ("optimizer.", "scheduler.", "model.moe_router_bias_update_rate")
_IN_EACH_STEP = ("scheduler.start_wd", "scheduler.end_wd")
_OF_WARMUP = ("scheduler.lr_warmup_steps", "scheduler.init_lr")
_OF_WEIGHT_DECAY = ("scheduler.wd_incr_steps", "scheduler.wd_incr_style")
_OF_PARAMETER_GROUPS = ("scheduler.max_lr", "scheduler.min_lr")


def sets(case: Case, told: Told) -> bool:
    """Whether a case has the recipe's value. It has another one if `--config` says so."""
    if told.state == SHAPED:
        return case.training.data_shape == DOCUMENTS
    section, _, field_name = told.setting.name.partition(".")
    there = case.training.effective(section)
    return told.state == TRIED and field_name in there and there[field_name] == told.value


@functools.lru_cache(maxsize=16)
def values(case: Case) -> Mapping[str, Value]:
    """Every field that another is read with, as the ranks of a case have it."""
    found = initial(declared.here())
    for section in SECTIONS:
        found |= {f"{section}.{name}": value for name, value in case.training.effective(section).items()}
    return found | {
        graphs.KIND: graphs.by(case.training.effective("model")),
        "model.context_parallel_size": case.layout.cp,
        "model.mtp_num_layers": case.model.num_nextn_predict_layers or None,
        "model.fp16": case.precision == "fp16",
    }


def tried(told: Told, ran: Sequence[Ran], *, in_lane: bool, measured: bool = True) -> Covered:
    """The word of a setting that was set, by the cases that can show it.

    `in_lane`: fp64 hides it. `measured`: the cases have the implementation with which effects are measured.
    """
    name, value = told.setting.name, told.value
    shows = [one for one in ran if sets(one.case, told)]
    if not shows:
        return Covered(told, NOT_EXERCISED, "--config sets another value")
    if not (shows := [one for one in shows if name not in one.overwritten]):
        return Covered(told, NOT_EXERCISED, "the plugin sets another value")
    entry, there = fields.entry(name), values(shows[0].case)
    if not (shows := [one for one in shows if not entry.unread(values(one.case))]):
        return Covered(told, NOT_EXERCISED, f"nothing reads it with {entry.with_field}={written(there[entry.with_field])}")
    if in_lane and not (shows := [one for one in shows if one.in_lane]):
        return Covered(told, NOT_EXERCISED, said.HIDDEN)
    cases = [one.case for one in shows]
    if name.startswith(_OF_A_STEP) and not (shows := [one for one in shows if one.steps]):
        return Covered(told, NOT_EXERCISED, _without_steps(cases[0]))
    by_reading = in_lane or (name.startswith("optimizer.") and bool(entry.formula))
    if measured and (reason := not_exercised(name, value, shows, by_reading=by_reading)):
        return Covered(told, NOT_EXERCISED, reason)
    return _judged(told, shows)


def _without_steps(case: Case) -> str:
    """Why a case took no steps: nobody asked for them, or a rule refuses them."""
    stepping = replace(case, training=replace(case.training, steps=2))
    if case.precision != "fp64" or case.isolated or not (why := next(filter(None, (rule(stepping) for rule in RULES)), None)):
        return said.NO_STEPS
    return f"{said.UNABLE} {why}"


def _judged(told: Told, shows: Sequence[Ran]) -> Covered:
    """By the checks of the cases that exercise it."""
    if bug := next((one.bugs[told.setting.name] for one in shows if told.setting.name in one.bugs), ""):
        return Covered(told, DIFFERENT, f"known upstream bug: {bug}")
    if not all(one.passed for one in shows):
        return Covered(told, DIFFERENT)
    if left_out := sum(one.left_out for one in shows):
        return Covered(told, NOT_EXERCISED, f"{many(left_out, 'check was', 'checks were')} left out")
    return Covered(told, EQUAL, told.why)


def not_exercised(name: str, value: Any, ran: Sequence[Ran], *, by_reading: bool = False) -> str:
    """Why a setting of cases with the default implementation has no effect that was measured, nothing if it has one.

    `by_reading`: it is a dtype, or a number or a switch of the optimizer that the reference has a formula for: the same lines
    compute something else.
    """
    if name.startswith("scheduler."):
        return min((_not_scheduled(name, one.case) for one in ran if one.steps), key=len, default="")
    release, on_a_gpu = ran[0].release, ran[0].case.uses_te
    measure = (
        f"`python -m validation {'tried' if on_a_gpu and _wants_a_gpu(name, value) else 'exercised'} --only {name}` measures it"
    )
    setting, tried = f"{name}={written(value)}", tries.record().get(release, {}) if on_a_gpu else {}
    if (said := _of_a_gpu(tried, name, setting, ran)) is not None:
        return said
    measured = table().get(release)
    if measured is None:
        return f"not measured with megatron-core {release}; {measure}"
    of_value = measured.get(setting)
    of_field = [of_value] if of_value else [found for said, found in measured.items() if said.partition("=")[0] == name]
    if not of_field:
        why = tried.get(setting, {}).get("why")
        return f"alone it does not run in a small case: {why}" if why else f"not measured; {measure}"
    if any(_shows(found, value, ran, by_reading) for found in of_field):
        return ""
    if broken := [found["broke"] for found in of_field if found.get("broke")]:
        return f"alone it does not run in a small case: {broken[0]}"
    return "megatron-core runs the same lines with it and without it"


def _wants_a_gpu(name: str, value: Any) -> bool:
    """Whether the setting can be measured where there is a GPU, and nowhere else."""
    entry = fields.entry(name)
    return entry.kind == "machine" or bool(entry.need(value))


def _of_a_gpu(tried: Mapping[str, Mapping[str, Any]], name: str, setting: str, ran: Sequence[Ran]) -> str | None:
    """What was `tried` on a GPU says of a setting with Transformer Engine: why it has no effect, nothing if it has one.

    It is that of other values where this one was not tried, as on the CPU. None if the field was not tried there to its end in
    a layout like that of a case.
    """
    of_value = tried.get(setting)
    of_field = [of_value] if of_value else [found for said, found in tried.items() if said.partition("=")[0] == name]
    shown = [found for found in of_field if any(one.has(str(found["layout"])) for one in ran)]
    if any(found["verdict"] in (tries.EQUAL, tries.DIFFERENT) for found in shown):
        return ""
    without = next((found["on"] for found in shown if found["verdict"] == tries.NO_EFFECT), None)
    return None if without is None else f"megatron-core runs the same lines with it and without it ({without})"


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


def _shows(found: Mapping[str, Any], value: Any, ran: Sequence[Ran], by_reading: bool) -> bool:
    """Whether other lines run in a layout like that of a case, or a number or a name is read."""
    lines = any(count for layout, count in found["lines"].items() if any(one.has(layout) for one in ran))
    return lines or (found["read"] and (by_reading or not isinstance(value, bool)))


@functools.cache
def table() -> Mapping[str, Mapping[str, Any]]:
    """What was measured, by release and setting."""
    found: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found


def counts(found: Iterable[Covered]) -> str:
    """`18 equal, 2 not exercised here, 11 need what is not here, 6 cannot be compared`."""
    return said.counts(one.word for one in found)


def properties(trial: Trial, found: Iterable[Covered]) -> dict[str, str]:
    """The same for a testsuite, with the word of every setting."""
    return said.properties(trial.recipe.source, {one.told.said: Word(one.word, one.why) for one in found})


def lines(trial: Trial, found: Sequence[Covered], all_by: str = "") -> Iterator[str]:
    """What the end of a run says of a recipe. What the recipe leaves at a default and no case exercises is counted.

    `all_by` is the command that lists that, too; without one all of it is here.
    """
    usual = len(trial.of(SAME))
    as_usual = f"; {usual} more are as in every case of Plumbline's" if usual else ""
    yield f"Recipe {trial.recipe.source}: {many(len(found), 'setting')}, {counts(found)}{as_usual}"
    yield from (f"  could not be told: {doubt}" for doubt in trial.recipe.doubts)
    yield from (f"  lost in the stand-in: {sentence}" for sentence in trial.small.lost)
    yield from (f"  scaled: {one.said} is {one.why}" for one in trial.tried_otherwise)
    if shape := documents.said(trial.training.data_shape):
        yield f"  {shape}"
    here = declared.here()
    left = [one for one in found if all_by and one.word == NOT_EXERCISED and _at_a_default(one.told.setting, here)]
    for word in (DIFFERENT, NOT_COMPARED, NOT_EXERCISED, NEEDED):
        listed = sorted((one for one in found if one.word == word and one.why and one not in left), key=_by_weight)
        for why, ones in groupby(listed, key=lambda one: one.why):
            names = ", ".join(one.told.said for one in ones)
            yield f"  {word}: {names} ({why})" if names not in why else f"  {word}: {why}"
        if word == NOT_EXERCISED and left:
            yield f"  {word}: {many(len(left), 'setting')} that the recipe leaves at a default; `{all_by}` lists all"


def _by_weight(one: Covered) -> tuple[bool, str]:
    """What another command or a larger case would exercise stands before what nothing reads beside the other settings."""
    return one.told.state == UNREAD or one.why.startswith("nothing reads it"), one.why


def _at_a_default(setting: Setting, here: declared.Fields) -> bool:
    """Whether the recipe does not say it, or says what megatron-core has by itself."""
    if setting.origin.source is Source.DEFAULT:
        return True
    try:
        return setting.name in here and declared.initial(here[setting.name]) == setting.value
    except UsageError:  # no default that text can say
        return False
