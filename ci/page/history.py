"""How near each component was to its limits in earlier runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.drift import ratio
from ci.heat import badness
from ci.junit import Suite
from ci.page.place import component
from ci.page.read import suites
from validation.case.errors import UsageError

MOST_RUNS = 100
_DAY_AND_MINUTE = len("2026-01-31T12:00")
Kind = tuple[str, str]
"""A component's name on the page, and a precision: what rounds otherwise has other ratios."""


@dataclass(frozen=True)
class Point:
    """One run: when it began, and of each kind the ratio of error to limit of the check that was nearest to its limit."""

    when: str
    ratios: Mapping[Kind, float]


@dataclass(frozen=True)
class History:
    """The runs, the oldest first; `unread` are sentences about files of earlier runs that could not be read."""

    points: tuple[Point, ...] = ()
    unread: tuple[str, ...] = ()


NO_HISTORY = History()


def history(now: Sequence[Suite], folders: Sequence[Path]) -> History:
    """Earlier runs' results, and this run's as the last point. Raises UsageError for a folder that holds none.

    Only testsuites that this run has are looked at: a layout that somebody added would look like a number that grew.
    """
    names = {suite.name for suite in now}
    points, unread = [], []
    for folder in folders[-MOST_RUNS:]:
        found, sentences = suites(folder)
        if not found and not sentences:
            raise UsageError(f"--history {folder}: no JUnit file (*.xml) is there; name a folder of results of an earlier run")
        unread += sentences
        points.append(_point(suite for suite in found if suite.name in names))
    points = sorted((point for point in points if point.ratios), key=lambda point: point.when)
    return History((*points, _point(now)), tuple(unread)) if points else History((), tuple(unread))


def _point(found: Iterable[Suite]) -> Point:
    ratios: dict[Kind, float] = defaultdict(float)
    begun = []
    for suite in found:
        begun.append((suite.run or suite.timestamp)[:_DAY_AND_MINUTE])
        precision = suite.properties.get("precision", "?")
        for check in suite.checks:
            if (near := ratio(check, failed=True)) is not None:
                kind = component(check.component), precision
                ratios[kind] = max(ratios[kind], badness(near))
    return Point(min(begun, default=""), ratios)
