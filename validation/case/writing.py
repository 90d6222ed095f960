"""Where a command writes: what cannot be written is said before anything starts, and no reader sees a part of a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from validation.case import exhausted
from validation.case.errors import UsageError


def check_folder(folder: Path, option: str) -> None:
    """Returns where files can be made in a folder, which need not be there yet. Leaves nothing there.

    Raises UsageError, and EnvironmentMissing where the disk is full or can only be read.
    """
    if reason := _why_not(folder, option):
        raise UsageError(f"{option} {folder}: {reason}; name a folder that can be written")


def check_cache(home: Path) -> None:
    """The same for the cache."""
    check_folder(home, "the cache, $PLUMBLINE_CACHE:")


def check_file(path: Path, option: str) -> None:
    """The same for a file, whether it is there or not. Raises UsageError."""
    if reason := "is a folder" if path.is_dir() else _why_not(path.parent, option):
        raise UsageError(f"{option} {path}: {reason}; name a file that can be written")


def _why_not(folder: Path, option: str) -> str:
    """What keeps files out of a folder, empty where nothing does.

    Permissions do not tell: root has them all, and yet makes no file in /proc or on a disk that is read-only.
    """
    above = there(folder)
    try:
        with exhausted.in_a_sentence(f"{option} {folder}"), tempfile.TemporaryFile(dir=above):
            return ""
    except OSError as error:
        return f"no file can be made in {above} ({error.strerror})"


def there(folder: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    place = folder.absolute()
    return next(found for found in (place, *place.parents) if os.path.lexists(found))


def write(path: Path, text: str) -> None:
    """Write a file in one step, with the folders that it is in. A reader sees the old one or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
