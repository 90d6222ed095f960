"""Reports of earlier runs that lie where a run is about to write its own.

They leave their place before anything can fail: a run that ends before it starts must not look like the one before it. They go
to `before/`, which no gate reads. When the run starts, it drops those that are worth no more than what takes their place. Worth
more is a report of more checks, or of another case of the same name: `python -m validation run --only ...`, which is what
`Reproduce:` prints, must not cost the report that led to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from validation.case.errors import UsageError
from validation.case.plural import many

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
        head = _head(path)
        count = _COUNT.search(head)
        if count is None or _unfinished(head):
            return None
        values = {name: re.search(rf'<property name="{name}" value="([^"]*)"', head) for name in _MAKES_IT}
        return cls(int(count[1]), tuple(value[1] if value else "" for value in values.values()))


def _head(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_HEAD)
    except (OSError, UnicodeError):
        return ""


def _unfinished(head: str) -> bool:
    return _UNFINISHED in head.partition("<testcase")[2]


@dataclass(frozen=True)
class Kept:
    """A report that was moved out of the way, and of how many checks it is."""

    path: Path
    checks: int


@dataclass(eq=False)
class Aside:
    """Reports that are out of their place: `_held` has where each was, and where it is."""

    _held: dict[Path, Path] = field(default_factory=dict)

    def take(self, paths: Iterable[Path]) -> None:
        """Move what lies there to `before/`, beside what is there. Raises UsageError."""
        for path in filter(Path.is_file, paths):
            try:
                if _unfinished(_head(path)):
                    path.unlink()  # nothing was found out
                else:
                    self._held[path] = _moved(path)
            except OSError as error:
                raise UsageError(
                    f"{path}: an earlier run's report cannot be moved to {FOLDER}/ beside it ({error.strerror}); "
                    "name another folder with --results"
                ) from None

    def settle(self, path: Path, properties: Mapping[str, str], checks: int) -> Kept | None:
        """A run of so many checks with such properties writes to `path` now: keep the report from there if it is worth more.

        Of one case the report with most checks is kept, and of two such the later one.
        """
        held = self._held.pop(path, None)
        if held is None:
            return None
        found, made = Found.at(held), tuple(properties.get(name, "") for name in _MAKES_IT)
        place = _place(path, held)
        there = Found.at(place) if place != held else None
        fuller = there is not None and found is not None and there.checks > found.checks
        if found is None or fuller or (found.made == made and found.checks <= checks):
            held.unlink()
            _tidy(held.parent)
            return None
        return Kept(held.replace(place) if place.parent.is_dir() else held, found.checks)

    def put_back(self) -> None:
        """What this run does not replace after all."""
        for path, held in self._held.items():
            if held.exists() and not path.exists():
                with suppress(OSError):
                    held.replace(path)
                _tidy(held.parent)
        self._held.clear()

    def told(self) -> str:
        """One line of what is out of its place though no run has started; empty for nothing. Forgets it."""
        kept = [Kept(held, found.checks if (found := Found.at(held)) else 0) for held in self._held.values()]
        self._held.clear()
        return f"Kept from before, for this run has not started: {_counted(kept)}" if kept else ""


ASIDE = Aside()
"""What the one command that this process runs has moved."""


def _place(path: Path, now: Path | None = None) -> Path:
    """Where the report that belongs to `path` is kept, and lies `now`: one place for each case of that name."""
    found = Found.at(now or path)
    return path.parent / FOLDER / _named(path, found.made if found else ("", ""))


def reports(path: Path, properties: Mapping[str, str]) -> list[Path]:
    """What earlier runs with such properties have left: the fuller report that was kept, and then the one at `path`."""
    made = tuple(properties.get(name, "") for name in _MAKES_IT)
    found = Found.at(path)
    there = path.is_file() and (found is None or not properties or found.made == made)
    kept = path.parent / FOLDER / _named(path, made)
    return [*([kept] if kept.is_file() else []), *([path] if there else [])]


def _named(path: Path, made: Sequence[str]) -> str:
    """What a report that belongs to `path` is called among those that are kept."""
    case, plugin = made
    return "-".join([path.stem, *([case[:8]] if case else []), *(["plugin"] if plugin else [])]) + path.suffix


def _moved(path: Path) -> Path:
    """Where it is now; beside its place under a name that no gate reads if no folder can be made, as on a full disk."""
    try:
        (path.parent / FOLDER).mkdir(exist_ok=True)
        return path.replace(_free(_place(path)))
    except OSError:
        return path.replace(_free(path.with_name(f"{path.name}.{FOLDER}")))


def _free(place: Path) -> Path:
    """The place, or one like it where nothing lies yet."""
    number, free = 1, place
    while free.exists() or free.is_symlink():
        number += 1
        free = place.with_name(f"{place.stem}-{number}{place.suffix}")
    return free


def _tidy(folder: Path) -> None:
    """Remove it if it is empty."""
    with suppress(OSError):
        folder.rmdir()


def told(kept: list[Kept], checks: int) -> str:
    """One line of what was kept; empty for nothing."""
    return f"Kept from before this run of {many(checks, 'check')}: {_counted(kept)}" if kept else ""


def _counted(kept: list[Kept]) -> str:
    first = kept[0]
    return f"{first.path} ({many(first.checks, 'check')})" if len(kept) == 1 else f"{len(kept)} reports in {first.path.parent}"
