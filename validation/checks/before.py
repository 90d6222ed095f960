"""Reports that are worth more than what takes their place: a run of fewer checks, or of another case of the same name.

`python -m validation run -- -k ...`, which is what `Reproduce:` prints, must not cost the report that led to it. Such reports
go to `before/` beside the new ones, one for each case; the gate, which reads no folder below its own, does not see them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "before"
_HEAD = 1 << 16
"""Bytes in which a testsuite and all of its properties stand."""
_COUNT = re.compile(r'<testsuite [^>]*?\btests="(\d+)"')
_UNFINISHED = 'message="did not finish"'
_MAKES_IT = ("case", "plugin")
"""Properties without which two reports of one name are not of the same."""


@dataclass(frozen=True)
class Found:
    """What a file's beginning says: how many checks it has, and what makes its case."""

    checks: int
    made: tuple[str, ...]

    @classmethod
    def at(cls, path: Path) -> Found | None:
        """None where there is no file, or one that says nothing."""
        try:
            with path.open(encoding="utf-8") as file:
                head = file.read(_HEAD)
        except (OSError, UnicodeError):
            return None
        count = _COUNT.search(head)
        if count is None or _UNFINISHED in head.partition("<testcase")[2]:
            return None
        values = {name: re.search(rf'<property name="{name}" value="([^"]*)"', head) for name in _MAKES_IT}
        return cls(int(count[1]), tuple(value[1] if value else "" for value in values.values()))


@dataclass(frozen=True)
class Kept:
    """A report that was moved out of the way, and of how many checks it is."""

    path: Path
    checks: int


def keep(path: Path, properties: Mapping[str, str], checks: int) -> Kept | None:
    """Move the file that a run of so many checks with such properties is about to replace, where it is worth keeping.

    Of one case the report with most checks is kept, and of two such the later one.
    """
    found = Found.at(path)
    made = tuple(properties.get(name, "") for name in _MAKES_IT)
    if found is None or (found.made == made and found.checks <= checks):
        return None
    case, plugin = found.made
    name = "-".join([path.stem, *([case[:8]] if case else []), *(["plugin"] if plugin else [])])
    place = path.parent / FOLDER / f"{name}{path.suffix}"
    there = Found.at(place)
    if there is not None and there.checks > found.checks:
        return None
    place.parent.mkdir(exist_ok=True)
    return Kept(path.replace(place), found.checks)


def told(kept: list[Kept], checks: int) -> str:
    """One line of what was kept; empty for nothing."""
    if not kept:
        return ""
    first = kept[0]
    what = f"{first.path} ({first.checks} checks)" if len(kept) == 1 else f"{len(kept)} reports in {first.path.parent}"
    return f"Kept from before this run of {checks} checks: {what}"
