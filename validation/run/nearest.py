"""The nearest to a recipe that runs, where a known upstream bug or a class of megatron-core's ends what the recipe trains.

Only the recipe's own settings are changed. What a user gives with `--config` is refused with a sentence. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from validation.case.annotation import Value
from validation.case.case import Case
from validation.recipe.reduce import smallest
from validation.recipe.trial import Told, Trial
from validation.run import known
from validation.run.settings_given import typed

if TYPE_CHECKING:
    from validation.run.options import Settings

Make = Callable[[Trial], Case]
"""A trial's case."""


def beside_bugs(trial: Trial, make: Make, given: Collection[str]) -> Trial:
    """The trial with other values of settings with which a known bug ends a case, but for those that are `given`."""
    instead = known.nearest(make(trial))
    if not instead or set(instead) & set(given):
        return trial  # the preflight says it, if there is a bug
    bug = known.ending(make(trial))
    return trial.changed(instead, instead, f"known upstream bug: {bug.what}" if bug else "")


def accepted(settings: Settings, refusal: Callable[[Case], str]) -> Settings:
    """The settings without those of their recipe that cannot be set together, the fewest that let the rest run.

    Of a list, as `recompute_modules` is, only the words are left out with which it is refused, if the others run.
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
        together = smallest(found.tried, refused)
        shorter = partial(_shorter, refusal, settings.cases, found)
        found = next(filter(None, (shorter(one, why) for one in together)), None) or found.changed(
            [one.setting.name for one in together], {}, why
        )
    return replace(settings, trial=found, cases=tuple(_with(case, found) for case in settings.cases))


def _shorter(refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial, told: Told, why: str) -> Trial | None:
    """The trial with fewer words in a setting that is a list, nothing if no shorter list runs where the whole one does not."""
    name, words = told.setting.name, told.setting.value
    if not isinstance(words, tuple) or len(words) < 2:
        return None

    def with_words(kept: Collection[Value]) -> Trial:
        return trial.changed([name], {name: tuple(kept)}, why)

    def runs(kept: Collection[Value]) -> bool:
        return not _first(refusal, cases, with_words(kept))

    left = tuple(word for word in words if runs((word,)))
    return with_words(left) if left and runs(left) else None


def _refused(refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial, kept: Collection[Told]) -> bool:
    left_out = [one.setting.name for one in trial.tried if one not in kept]
    return bool(_first(refusal, cases, trial.changed(left_out, {}, "")))


def _first(refusal: Callable[[Case], str], cases: Iterable[Case], trial: Trial) -> str:
    return next(filter(None, (refusal(_with(case, trial)) for case in cases)), "")


def _with(case: Case, trial: Trial) -> Case:
    return replace(case, training=replace(typed(trial.training), steps=case.training.steps))
