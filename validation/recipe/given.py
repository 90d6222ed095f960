"""What became of settings without a recipe, a user's and a plugin's: those that no check of the run can show, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from validation.case import fields
from validation.case.annotation import Value
from validation.case.covered import NOT_EXERCISED
from validation.case.settings import written
from validation.recipe.coverage import Ran, tried
from validation.recipe.recipe import Origin, Setting, Source
from validation.recipe.told import TRIED, Told

_CHANGES_NOTHING = ("neutral", "machine")
"""Kinds of which the reference has every value: equal numbers do not say whether they had an effect."""
_MEASURED = "local"
"""The implementation with which `exercised.json` is measured."""


def lines(not_shown_: Mapping[str, str]) -> Iterator[str]:
    """For the end of a run: `not exercised here: model.cp_comm_type=p2p (nothing reads it with ...)`, a reason a line."""
    yield from (f"{NOT_EXERCISED}: {settings}" for settings in _by_reason(not_shown_))


def said(not_shown_: Mapping[str, str]) -> str:
    """All of them for a property: `model.softmax_scale=0.5 (nothing reads it); ...`."""
    return "; ".join(_by_reason(not_shown_))


def _by_reason(not_shown_: Mapping[str, str]) -> Iterator[str]:
    listed = sorted(not_shown_.items(), key=lambda one: one[1])
    for why, settings in groupby(listed, key=lambda one: one[1]):
        yield f"{', '.join(setting for setting, _ in settings)} ({why})"


def not_shown(ran: Sequence[Ran]) -> dict[str, str]:
    """`NAME=VALUE` of each setting that no case exercises -> why."""
    given = dict.fromkeys(setting for one in ran for setting in one.case.training.settings)
    found = {f"{name}={written(value)}": _why(name, value, ran) for name, value in given}
    return {setting: why for setting, why in found.items() if why}


def hidden(ran: Ran, values: Mapping[str, Value]) -> dict[str, str]:
    """`NAME=VALUE` of each field that a plugin sets to one of `values` and no check of the case shows -> why.

    A check that fails may show any of them, and one that was left out, too.
    """
    if not ran.passed or ran.left_out:
        return {}
    known = {name: value for name, value in values.items() if name in fields.entries()}
    settings = {**dict(ran.case.training.settings), **known}
    training = replace(ran.case.training, settings=tuple(sorted(settings.items())))
    having = replace(ran, case=replace(ran.case, training=training), overwritten=())
    found = {f"{name}={written(value)}": _of_plugin(name, value, having) for name, value in known.items()}
    return {setting: why for setting, why in found.items() if why}


def _of_plugin(name: str, value: Value, ran: Ran) -> str:
    """Where the reference has the case's own value, a sound case with another one does not read it."""
    entry = fields.entry(name)
    if entry.kind == "idle":
        return "it reaches no number of a step"
    changes = entry.kind not in _CHANGES_NOTHING
    told = Told(Setting(name, value, Origin(Source.GIVEN, "plugin")), TRIED)
    measured = ran.case.implementation == _MEASURED and not changes
    found = tried(told, [ran], in_lane=bool(entry.lane), measured=measured)
    unread = "the reference does not have it, and every check passes"
    return found.why if found.word == NOT_EXERCISED else unread if changes else ""


def _why(name: str, value: Value, ran: Sequence[Ran]) -> str:
    having = [one for one in ran if (name, value) in one.case.training.settings]
    told = Told(Setting(name, value, Origin(Source.GIVEN, "--config")), TRIED)
    measured = all(one.case.implementation == _MEASURED for one in having)
    found = tried(told, having, in_lane=bool(fields.entry(name).lane), measured=measured)
    return found.why if found.word == NOT_EXERCISED else ""
