"""The nearest to a recipe that runs, where a known upstream bug or a class of megatron-core's ends what the recipe trains.

Only the recipe's own settings are changed. What a user gives with `--config` is refused with a sentence. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from validation.case import fields
from validation.case.annotation import Value
from validation.case.case import Case
from validation.recipe.reduce import smallest
from validation.recipe.told import Told
from validation.recipe.trial import Trial
from validation.run import known
from validation.run.settings_given import typed

if TYPE_CHECKING:
    from validation.run.options import Settings

Make = Callable[[Trial], Case]
"""A trial's case."""


def beside_bugs(trial: Trial, make: Make, given: Collection[str]) -> Trial:
    """The trial with other values of settings with which a known bug ends a case, but for those that are `given`."""
    instead = known.nearest(make(trial))
    if not instead or set(instead) & set(given) or not set(instead) <= {one.setting.name for one in trial.told}:
        return trial  # the preflight says it, if there is a bug; nothing would say what is changed of what is no setting
    bug = known.ending(make(trial))
    return trial.changed(instead, instead, f"known upstream bug: {bug.what}" if bug else "")


def accepted(settings: Settings, refusal: Callable[[Case], str]) -> Settings:
    """The settings without those of their recipe that cannot be set together, the fewest that let the rest run.

    A list keeps the members that are not refused.

    `refusal` says why a case cannot run, nothing if it can. Nothing changes if a case is refused without any of them, too.
    """
    trial = settings.trial
    if trial is None or not any(map(refusal, settings.cases)):
        return settings
    found = trial
    while why := _first(refusal, settings.cases, found):
        refused = partial(_refused, refusal, settings.cases, found)
        if refused(()):
            return settings
        part = _named(refusal, settings.cases, found, why) or smallest(found.tried, refused)
        instead = _shorter(refusal, settings.cases, found, part)
        found = found.changed(instead or [one.setting.name for one in part], instead, why)
    return replace(settings, trial=found, cases=tuple(_with(case, found) for case in settings.cases))


def _named(refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial, why: str) -> tuple[Told, ...]:
    """The setting that `why` names and without which it does not hold; rather one by which no other setting is read.

    Without `recompute_granularity` nothing would be recomputed, and how many layers would not matter.
    """
    reason, reads = _reason(why), {fields.entry(one.setting.name).with_field for one in trial.tried}
    named = [one for one in trial.tried if one.setting.name.partition(".")[2] in reason]
    for one in sorted(named, key=lambda told: told.setting.name in reads):
        if _reason(_first(refusal, cases, trial.changed([one.setting.name], {}, ""))) != reason:
            return (one,)
    return ()


def _reason(why: str) -> str:
    """What is refused, without the name of the case, which has settings in it."""
    return why.partition(": ")[2] or why


def _shorter(
    refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial, part: Iterable[Told]
) -> dict[str, tuple[Value, ...]]:
    """A list among these settings without the members that are refused; nothing if there is none, or nothing is left of it."""

    def fails(name: str, kept: tuple[Value, ...]) -> bool:
        return bool(_first(refusal, cases, trial.changed([name], {name: kept}, "")))

    for one in part:
        name, left = one.setting.name, one.setting.value
        if not isinstance(left, tuple) or name in trial.instead:
            continue
        while left and fails(name, left):
            wrong = smallest(left, partial(fails, name))
            left = tuple(member for member in left if member not in wrong) if wrong else ()
        if left:
            return {name: left}
    return {}


def _refused(refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial, kept: Collection[Told]) -> bool:
    left_out = [one.setting.name for one in trial.tried if one not in kept]
    return bool(_first(refusal, cases, trial.changed(left_out, {}, "")))


def _first(refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial) -> str:
    return next(filter(None, (refusal(_with(case, trial)) for case in cases)), "")


def _with(case: Case, trial: Trial) -> Case:
    return replace(case, training=replace(typed(trial.training), steps=case.training.steps))
