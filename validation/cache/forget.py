"""What the cache holds, and what it forgets when that is more than its limit: what was used longest ago, never what is in use.

References are the folders of `references` (validation.reference.store), compiled files those of `native`
(validation.compare.native), and what cut runs go on with those of `lockstep` (validation.candidate.kept_steps). Nothing else
below the cache's folder is looked at or deleted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.cache import limit, locks

REFERENCES, NATIVE, LOCKSTEP = "references", "native", "lockstep"
UNFINISHED = ".unfinished-"
"""How names of folders begin that are being written, and are a reference's only when they are renamed."""
_REFERENCE = re.compile(r"([0-9a-f]{24})(?:-[0-9a-f]{8})?")
"""The names of references; those before there were several of a key have no second part."""
_KEPT_STEPS = re.compile(r"[0-9a-f]{24}")
_COMPILED = re.compile(r"difference-[0-9a-f-]+\.so")
_LEFT = re.compile(r"\.(?:unfinished|forgotten)-\w+")
_LEFT_IN_NATIVE = re.compile(r"\.part-\w+|tmp\w+")
_PATIENCE, _POLL = 5.0, 0.05
"""Seconds to wait for another process that is forgetting, and between two looks."""
_SAID: set[Path] = set()
"""Caches of which it has been said that more is in use than they may hold."""
_COMPILE_SECONDS = 600
"""After which nobody is compiling a file any more."""


@dataclass(frozen=True)
class Entry:
    """Something that can be forgotten by itself: its size in bytes, and when it was last used."""

    path: Path
    size: int
    used: float

    @property
    def key(self) -> str:
        """What it is the reference of; of other entries their name."""
        found = _REFERENCE.fullmatch(self.path.name)
        return found[1] if found else self.path.name


@dataclass(frozen=True)
class Contents:
    """What a cache holds: its bytes, those of unfinished references among them, and how many references there are."""

    size: int
    references: int


def contents(home: Path) -> Contents:
    """What is there now."""
    kept, left = entries(home), leftovers(home)
    references = {entry.key for entry in kept if entry.path.parent.name == REFERENCES}
    return Contents(sum(entry.size for entry in (*kept, *left)), len(references))


def entries(home: Path) -> list[Entry]:
    """Every reference, cut run and compiled file, those first that were used longest ago."""
    found = [*_named(home / REFERENCES, _REFERENCE), *_named(home / NATIVE, _COMPILED), *_named(home / LOCKSTEP, _KEPT_STEPS)]
    return sorted(found, key=lambda entry: entry.used)


def leftovers(home: Path) -> list[Entry]:
    """What is being written or deleted, or was, by a process that has ended."""
    return [*_named(home / REFERENCES, _LEFT), *_named(home / LOCKSTEP, _LEFT), *_named(home / NATIVE, _LEFT_IN_NATIVE)]


def forget(home: Path, most: int | None) -> Contents:
    """Delete what processes left that have ended, references that newer ones replace, and what is above the limit.

    Returns what is there afterwards. That is above the limit if it is in use, or another's. Two processes at once forget one
    after the other; one that waits too long leaves it to the other.
    """
    with _one_at_a_time(home) as turn:
        if turn:
            for entry in leftovers(home):
                _delete(entry)
            for entry in _replaced(entries(home)):
                _delete(entry)
            size = contents(home).size
            for entry in entries(home):
                if most is None or size <= most:
                    break
                size -= entry.size if _delete(entry) else 0
    return contents(home)


def keep_within(home: Path, most: int | None) -> None:
    """Forget what is above the limit; say once in a process if what is in use is more than that."""
    kept = forget(home, most)
    if most is not None and kept.size > most and home not in _SAID:
        _SAID.add(home)
        sys.stderr.write(
            f"note: of the cache {home} {limit.written(kept.size)} are in use, more than its limit of {limit.written(most)}; "
            f"{limit.OPTION} or ${limit.VARIABLE} sets another\n"
        )


def made(folder: Path) -> int:
    """When a reference was finished, in nanoseconds since the epoch; 0 if it was not."""
    try:
        return (folder / "reference.json").stat().st_mtime_ns
    except OSError:
        return 0


def references_of(key: str, home: Path) -> list[Path]:
    """The folders of one key, the newest first."""
    return sorted((home / REFERENCES).glob(f"{key}*"), key=made, reverse=True)


def _replaced(found: Sequence[Entry]) -> list[Entry]:
    """References that are not the newest of their key."""
    newest: dict[str, Entry] = {}
    for entry in sorted(found, key=lambda entry: made(entry.path)):
        newest[entry.key] = entry
    return [entry for entry in found if newest[entry.key] != entry]


def _named(folder: Path, names: re.Pattern[str]) -> Iterator[Entry]:
    """What of a folder has such a name. What vanishes meanwhile is not there, nor is a link."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for one in found:
            if names.fullmatch(one.name) and not one.is_symlink():
                with contextlib.suppress(OSError):
                    yield _entry(Path(one.path), one.is_dir())


def _entry(path: Path, is_folder: bool) -> Entry:
    if not is_folder:
        told = path.stat()
        return Entry(path, told.st_size, told.st_mtime)
    sizes = []
    with contextlib.suppress(OSError), os.scandir(path) as files:
        for one in files:
            with contextlib.suppress(OSError):
                sizes.append(one.stat(follow_symlinks=False).st_size)
    return Entry(path, sum(sizes), locks.used(path))


def _delete(entry: Entry) -> bool:
    """Whether it is gone: it is not where somebody uses it, or where this user may not."""
    try:
        return _delete_compiled(entry) if entry.path.parent.name == NATIVE else _delete_folder(entry.path)
    except OSError:
        return False


def _delete_folder(folder: Path) -> bool:
    with locks.alone(folder) as unused:
        if unused:
            # A process that is killed in between leaves what the next one takes for left over.
            shutil.rmtree(locks.out_of_the_way(folder), ignore_errors=True)
        return unused


def _delete_compiled(entry: Entry) -> bool:
    """A file that is loaded stays loaded. One that may still be written is left alone."""
    if _COMPILED.fullmatch(entry.path.name) is None and time.time() - entry.used < _COMPILE_SECONDS:
        return False
    if entry.path.is_dir():
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        entry.path.unlink()
    return not entry.path.exists()


@contextlib.contextmanager
def _one_at_a_time(home: Path) -> Iterator[bool]:
    """Whether it is this process's turn; not if there is no cache yet."""
    end = time.monotonic() + _PATIENCE
    while (home / REFERENCES).is_dir():
        with locks.alone(home / REFERENCES) as turn:
            if turn or time.monotonic() > end or not locks.work(home / REFERENCES):
                yield turn
                return
        time.sleep(_POLL)
    yield False
