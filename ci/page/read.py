"""A folder's JUnit files as testsuites. Whoever wrote them chose every byte."""

from __future__ import annotations

from pathlib import Path

from ci import junit
from ci.folder import reports
from ci.junit import Suite, UnreadableResults
from validation.case.plural import many

MOST_FILES = 2000
"""JUnit files that are read of one run."""


def suites(folder: Path) -> tuple[list[Suite], list[str]]:
    """What can be read, and a sentence for each file that cannot be; nothing where there is no folder."""
    found = reports(folder)
    read, unreadable = [], []
    for path in found[:MOST_FILES]:
        try:
            read.append(junit.read(path))
        except UnreadableResults as error:
            unreadable.append(str(error))
    if len(found) > MOST_FILES:
        unreadable.append(f"{many(len(found) - MOST_FILES, 'more file, which was', 'more files, which were', ',')} not read")
    return read, unreadable
