"""Where what outlives a command is kept."""

from __future__ import annotations

import os
from pathlib import Path

from validation.case.errors import UsageError
from validation.case.strangers import shown


def home() -> Path:
    """$PLUMBLINE_CACHE, or plumbline below the user's cache folder.

    Raises UsageError for a user who has none, and for a path that is not UTF-8: safetensors takes no other.
    """
    place = unchecked()
    path = os.path.realpath(place)
    try:
        path.encode()
    except UnicodeEncodeError:
        said = f"the cache's path is not UTF-8 ({shown(path)}), and its files need that"
        raise UsageError(f"{said}; name another folder in $PLUMBLINE_CACHE") from None
    return place


def unchecked() -> Path:
    """The same for files that may have any path. Raises UsageError for a user who has none."""
    if cache := os.environ.get("PLUMBLINE_CACHE"):
        return Path(cache)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches) / "plumbline"
    try:
        return Path.home() / ".cache" / "plumbline"
    except RuntimeError:
        raise UsageError("this user has no home folder for the cache; name a folder in $PLUMBLINE_CACHE") from None
