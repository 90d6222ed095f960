"""A run as JSON for the page's script: a column for each number, every text once, so that 14,000 checks stay a megabyte."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

from ci import reproduction
from ci.junit import Check, Suite
from ci.numbers import number
from ci.page.numbered import numbered
from ci.page.place import column_order, component, component_order, place, row_order, view_order
from ci.page.run import Run, labels, level, share, short
from validation.case.plural import many

LONGEST = 4_000
"""Characters of one message or stack."""
ROOM = 1_200_000
"""Characters of all of them; what comes later is cut to SHORT, so that a run in which everything fails can be opened, too."""
SHORT = 80
_NUMBERS = {
    "max": "max_diff",
    "avg": "avg_diff",
    "rel": "rel_error",
    "limit": "tolerance",
    "floor": "floor",
    "projection": "projection",
    "elements": "elements",
}
_TEXTS = {"index": "worst_index", "rank": "worst_rank", "ranks": "ranks"}
_SHOWN = {*_NUMBERS.values(), *_TEXTS.values(), "ratio", "reproduce"}


def as_json(run: Run) -> str:
    """The data, as it may stand in a script element: whatever a name holds, it cannot end the element."""
    text = json.dumps(_Data(run).content(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


class _Data:
    def __init__(self, run: Run) -> None:
        self._run, self._room = run, ROOM
        self._texts: dict[str, int] = {}
        self._entries = {entry: index for index, entry in enumerate(in_the_flow(run.suites))}

    def content(self) -> dict[str, Any]:
        checks = [check for suite in self._run.suites for check in suite.checks]
        shown = numbered(self._run.suites)
        told = [checks[position] for position in shown]
        return {
            **self._entry_table(),
            "suites": self._suites(),
            "stretches": _stretches(self._entries[check.component, check.name] for check in checks),
            "status": "".join(check.status[0] for check in checks),
            "level": "".join(str(level(check)) for check in checks),
            "numbered": shown if len(shown) < len(checks) else [],
            "share": [_short(share(check)) for check in told],
            "short": [short(check) for check in told],
            **{key: self._column(told, name) for key, name in _NUMBERS.items()},
            **{key: [self._text(check.properties.get(name, "")) for check in told] for key, name in _TEXTS.items()},
            "more": self._more(set(shown)),
            "texts": list(self._texts),
        }

    def _column(self, checks: Iterable[Check], name: str) -> list[float | str | None]:
        found = [_short(number(check, name)) for check in checks]
        return found if any(value is not None for value in found) else []

    def _text(self, text: str) -> int:
        return self._texts.setdefault(_cut(text, LONGEST), len(self._texts))

    def _entry_table(self) -> dict[str, Any]:
        """What the checks of every case have in common: title, component, cell; and the names of those."""
        components = [component(name) for name, _ in self._entries]
        places = [place(title) for _, title in self._entries]
        found = [one for one in places if one is not None]
        names = {
            "components": sorted(set(components), key=component_order),
            "views": sorted({one.view for one in found}, key=view_order),
            "rows": sorted({one.row for one in found}, key=row_order),
            "columns": sorted({one.column for one in found}, key=column_order),
        }
        at = {key: {name: index for index, name in enumerate(listed)} for key, listed in names.items()}
        cells = [[at["views"][one.view], at["rows"][one.row], at["columns"][one.column]] if one else [] for one in places]
        titles = (title for _, title in self._entries)
        rows = zip(titles, components, cells, strict=True)
        return {**names, "entries": [[title, at["components"][part], *cell] for title, part, cell in rows]}

    def _suites(self) -> list[dict[str, Any]]:
        apart = {suite.name for suite in self._run.self_tests}
        return [
            {
                "name": suite.name,
                "label": name,
                "checks": len(suite.checks),
                "apart": suite.name in apart,
                "seconds": round(suite.seconds, 2),
                "facts": [[name, _cut(value, LONGEST)] for name, value in suite.properties.items() if name != "reproduce"],
                **self._again(suite),
            }
            for suite, name in zip(self._run.suites, labels(self._run.suites), strict=True)
        ]

    def _again(self, suite: Suite) -> dict[str, str]:
        """How to run the case again: what comes before the command, and the command."""
        how = reproduction.ours(suite.properties.get("reproduce", ""))
        return {"setup": reproduction.setup(suite, how, self._run.sources), "reproduce": reproduction.elsewhere(how)}

    def _more(self, shown: Container[int]) -> dict[int, dict[str, Any]]:
        """What only some checks have: words."""
        found, position = {}, 0
        for suite in self._run.suites:
            for check in suite.checks:
                if position in shown and (check.status != "pass" or share(check) is None):
                    found[position] = self._words(check, suite)
                position += 1
        return found

    def _words(self, check: Check, suite: Suite) -> dict[str, Any]:
        line, _, details = check.details.partition("\n")
        said = (check.message or line).removeprefix(f"{check.status.upper()}: {check.name} - ")
        other = {name: value for name, value in check.properties.items() if name not in _SHOWN}
        words = {
            "says": self._within(said),
            "details": self._within(details.strip()) if self._room > 0 else "",
            "reproduce": _again(check, suite),
            "other": [[name, self._within(value)] for name, value in other.items()] if self._room > 0 else [],
        }
        return {name: value for name, value in words.items() if value}

    def _within(self, text: str) -> str:
        """The text, or as much of it as there is room for."""
        if self._room <= 0:
            return text if len(text) <= SHORT else f"{text[:SHORT]}… (more in JUnit)"
        cut = _cut(text, LONGEST)
        self._room -= len(cut)
        return cut


def _again(check: Check, suite: Suite) -> str:
    """The command of a check; what it says more than that of its case, where it begins with that, which stands once."""
    how, whole = reproduction.command(check), suite.properties.get("reproduce", "\n")
    more = how.removeprefix(whole)
    return more if more.startswith(" ") else reproduction.elsewhere(how)


def in_the_flow(suites: Iterable[Suite]) -> list[tuple[str, str]]:
    """Component and title of every check, each once: in the order of the files, which is that of the flow of data.

    What only some files have stands behind what is before it there, and at the end if nothing is. A linked list: strangers'
    files may have 20,000 checks.
    """
    following: dict[tuple[str, str] | None, tuple[str, str] | None] = {None: None}
    end: tuple[str, str] | None = None
    for suite in suites:
        last = end
        for check in suite.checks:
            entry = (check.component, check.name)
            if entry not in following:
                following[entry], following[last] = following[last], entry
                end = entry if last == end else end
            last = entry
    found, one = [], following[None]
    while one is not None:
        found.append(one)
        one = following[one]
    return found


def _stretches(entries: Iterable[int]) -> list[int]:
    """The first entry of a stretch in which each check has the entry after the last one's, and how long it is; and so on.

    Files have their checks in the order of the entries, so that a few stretches say those of a whole file.
    """
    found: list[int] = []
    for entry in entries:
        if found and entry == found[-2] + found[-1]:
            found[-1] += 1
        else:
            found += [entry, 1]
    return found


def _cut(text: str, most: int) -> str:
    return (
        text
        if len(text) <= most
        else f"{text[:most]}… ({many(len(text) - most, 'more character', spec=',')} in the JUnit file)"
    )


def _short(value: float | None) -> float | str | None:
    """Four digits, as JSON has them: it knows no infinity."""
    if value is None:
        return None
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    short = value if value.is_integer() else float(f"{value:.4g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def facts(run: Run) -> Mapping[str, str]:
    """What every case says the same of itself; what they differ in has the values one after the other."""
    found: dict[str, dict[str, None]] = {}
    for suite in run.suites:
        for name, value in suite.properties.items():
            found.setdefault(name, {})[value] = None
    return {name: ", ".join(values) for name, values in found.items()}
