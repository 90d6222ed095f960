"""How much the cache may hold: as an option says, or $PLUMBLINE_CACHE_LIMIT, or a tenth of its disk."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from validation.case.errors import UsageError
from validation.case.strangers import shown

OPTION, VARIABLE = "--cache-limit", "PLUMBLINE_CACHE_LIMIT"
MOST = 100 * 10**9
"""Bytes of the default at most: 200 references of `mini`, of 0.5 GB each."""
SHARE = 10
"""The default is the disk divided by this. A runner has other tenants: container images, workspaces, package caches."""
_NONE = "none"
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(?:([kmgtp])(i?)b?|b)", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def limit(given: str | None, home: Path) -> int | None:
    """Bytes that the cache in `home` may hold; None for any number. Raises UsageError for a size that is none."""
    if given is not None:
        return parsed(given, f"{OPTION} ")
    if said := os.environ.get(VARIABLE):
        return parsed(said, f"${VARIABLE}=")
    return default(home)


def default(home: Path) -> int:
    """A tenth of the disk that holds the cache, MOST at most. The folder need not be there yet."""
    place = home.absolute()
    above = next(found for found in (place, *place.parents) if found.exists())
    return min(shutil.disk_usage(above).total // SHARE, MOST)


def parsed(text: str, source: str) -> int | None:
    """Bytes in `20GB`, `1.5 TB` or `500MiB`; None for `none`. `source` is what stands before it. Raises UsageError."""
    word = text.strip()
    if word.lower() == _NONE:
        return None
    found = _SIZE.fullmatch(word)
    if found is None:
        raise UsageError(
            f"{source}{shown(text)} is no size; give a number with its unit, such as 20GB, 1.5TB or 500MiB, or none"
        )
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** (_POWERS[unit.lower()] if unit else 0))


def written(size: int | None) -> str:
    """A size for a reader, `12.3 GB`; `no limit` for None."""
    if size is None:
        return "no limit"
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2)):
        if size >= 1000**power:
            return f"{size / 1000**power:.1f} {unit}"
    return f"{size / 1000:.1f} kB"
