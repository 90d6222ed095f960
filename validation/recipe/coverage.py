"""How much of a recipe was compared: a word for each of its settings, and whether the word is earned is measured.

EQUAL: the switch was set, megatron-core ran other lines with it or read its value (`exercised.json`, as `python -m validation
exercised` measures it), and every check passed. DIFFERENT: it was set, and a check failed. NOT_EXERCISED: it was set, and none
of megatron-core's lines ran otherwise: equal numbers prove nothing. NEEDS: it was not set, for it needs what is not here.
NOT_COMPARED: it was not set, for no formula or no place stands for it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from validation.case import fields
from validation.case.case import Case
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


def in_lane(cases: Iterable[Case]) -> bool:
    """Whether a case shows what fp64 hides."""
    return any(case.precision != "fp64" for case in cases)


def covered(trial: Trial, passed: bool, in_lane: bool, release: str) -> tuple[Covered, ...]:
    """Every setting that could change a number. `passed` says that no check failed, `in_lane` that a case in bf16 was run."""
    return tuple(_covered(trial, passed, in_lane, release))


def _covered(trial: Trial, passed: bool, in_lane: bool, release: str) -> Iterator[Covered]:
    for told in trial.told:
        if told.state in (REFUSED, ABSENT):
            yield Covered(told, NOT_COMPARED, told.why)
        elif told.state == UNREAD:
            yield Covered(told, NOT_EXERCISED, told.why)
        elif told.state == NEEDS:
            yield Covered(told, NEEDED, told.why)
        elif told.state == SAME:
            yield Covered(told, EQUAL if passed else DIFFERENT, told.why)
        elif told.state == TRIED:
            yield _tried(trial, told, passed, in_lane, release)


def _tried(trial: Trial, told: Told, passed: bool, in_lane: bool, release: str) -> Covered:
    name = told.setting.name
    if name in trial.lanes and not in_lane:
        return Covered(told, NOT_EXERCISED, "fp64 hides it; --precision bf16 shows it")
    if reason := not_exercised(name, told.setting.value, release, by_reading=name in trial.lanes):
        return Covered(told, NOT_EXERCISED, reason)
    return Covered(told, EQUAL if passed else DIFFERENT)


def not_exercised(name: str, value: Any, release: str, *, by_reading: bool = False) -> str:
    """Why a setting of a case with the default implementation has no effect that was measured, nothing if it has one.

    `by_reading`: it is a dtype, with which the same lines compute something else.
    """
    entry = fields.entry(name)
    if entry.section == "scheduler" and entry.formula:
        return ""  # an argument of a function, and no field that somebody reads; its number is in each step
    measured = table().get(release)
    if measured is None:
        return f"not measured with megatron-core {release}; `python -m validation exercised --only {name}` measures it"
    of_value = measured.get(f"{name}={written(value)}")
    of_field = [found for said, found in measured.items() if said.partition("=")[0] == name]
    for found in [of_value] if of_value else of_field:
        if any(found["lines"].values()) or (found["read"] and (by_reading or not isinstance(value, bool))):
            return ""
    if broken := [found["broke"] for found in ([of_value] if of_value else of_field) if found.get("broke")]:
        return f"alone it does not run in a small case: {broken[0]}"
    if of_value or of_field:
        return "megatron-core runs the same lines with it and without it"
    return f"not measured; `python -m validation exercised --only {name}` measures it"


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
    yield f"Recipe {trial.recipe.source}: {len(found)} settings, {counts(found)}"
    for word in (NOT_EXERCISED, NEEDED, NOT_COMPARED):
        listed = sorted((one for one in found if one.word == word), key=lambda one: one.why)
        for why, ones in groupby(listed, key=lambda one: one.why):
            said = ", ".join(one.told.said for one in ones)
            yield f"  {word}: {said} ({why})" if said not in why else f"  {word}: {why}"
    if trial.recipe.unknown:
        yield f"  unknown to Megatron-LM's parser, and not read: {', '.join(flag.text for flag in trial.recipe.unknown)}"
