"""What became of settings that a user gives without a recipe: those that no check of the run can show, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from validation.case import declared, fields
from validation.case.annotation import Value
from validation.case.case import Case
from validation.case.covered import NOT_EXERCISED
from validation.case.settings import SECTIONS, written
from validation.recipe.coverage import Ran, tried
from validation.recipe.recipe import Origin, Setting, Source
from validation.recipe.trial import TRIED, Told, initial

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
    entry = fields.entry(name)
    having = [one for one in ran if (name, value) in one.case.training.settings]
    reading = [one for one in having if not entry.unread(values(one.case))]
    if not reading:
        return f"nothing reads it with {entry.with_field}={written(values(having[0].case)[entry.with_field])}"
    told = Told(Setting(name, value, Origin(Source.GIVEN, "--config")), TRIED)
    found = tried(
        told, reading, in_lane=bool(entry.lane), measured=all(one.case.implementation == _MEASURED for one in reading)
    )
    return found.why if found.word == NOT_EXERCISED else ""


def values(case: Case) -> Mapping[str, Value]:
    """Every field that another is read with, as the ranks of a case have it."""
    found = initial(declared.here())
    for section in SECTIONS:
        found |= {f"{section}.{name}": value for name, value in case.training.effective(section).items()}
    return found | {
        "model.context_parallel_size": case.layout.cp,
        "model.mtp_num_layers": case.model.num_nextn_predict_layers or None,
        "model.fp16": case.precision == "fp16",
    }
