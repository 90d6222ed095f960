"""What became of settings that a user gives without a recipe: those that no check of the run can show, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from validation.case import fields
from validation.case.annotation import Value
from validation.case.covered import NOT_EXERCISED
from validation.case.settings import written
from validation.recipe.coverage import Ran, tried
from validation.recipe.recipe import Origin, Setting, Source
from validation.recipe.told import TRIED, Told

_MEASURED = "local"
"""The implementation with which `exercised.json` is measured."""


def lines(not_shown_: Mapping[str, str]) -> Iterator[str]:
    """For the end of a run: `not exercised here: model.cp_comm_type=p2p (nothing reads it with ...)`, a reason a line."""
    listed = sorted(not_shown_.items(), key=lambda one: one[1])
    for why, settings in groupby(listed, key=lambda one: one[1]):
        yield f"{NOT_EXERCISED}: {', '.join(setting for setting, _ in settings)} ({why})"


def not_shown(ran: Sequence[Ran]) -> dict[str, str]:
    """`NAME=VALUE` of each setting that no case exercises -> why."""
    given = dict.fromkeys(setting for one in ran for setting in one.case.training.settings)
    found = {f"{name}={written(value)}": _why(name, value, ran) for name, value in given}
    return {setting: why for setting, why in found.items() if why}


def _why(name: str, value: Value, ran: Sequence[Ran]) -> str:
    having = [one for one in ran if (name, value) in one.case.training.settings]
    told = Told(Setting(name, value, Origin(Source.GIVEN, "--config")), TRIED)
    measured = all(one.case.implementation == _MEASURED for one in having)
    found = tried(told, having, in_lane=bool(fields.entry(name).lane), measured=measured)
    return found.why if found.word == NOT_EXERCISED else ""
