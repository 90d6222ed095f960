"""Where results lie, and how they are read. Whoever made them chose every name and every byte.

A session's files are in `results-SESSION`, which is the name of its artifact, or, where there is no such folder at all, beside
each other, as a run on one's own machine leaves them. What attempts that broke have left is in `attempts/1`, `attempts/2`, ...
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from ci import junit
from ci.expected import Expected
from ci.junit import Suite, UnreadableResults

ATTEMPTS = "attempts"
PREFIX = "results-"
MOST_ENTRIES = 10_000
"""Names in one folder."""


class Results:
    """A folder of results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sorted = any(path.name.startswith(PREFIX) for path in _listed(folder))

    def path(self, session: str, file: str, attempt: int = 0) -> Path:
        """Where a session's file would be; `attempt` counts from 1, and 0 is the last one."""
        place = self._of(session)
        return place / ATTEMPTS / str(attempt) / file if attempt else place / file

    def read(self, expected: Expected, attempt: int = 0) -> Suite:
        """The testsuite that is expected there. Raises UnreadableResults."""
        path = self.path(expected.session, expected.file, attempt)
        link = next((folder for folder in self._between(path) if folder.is_symlink()), None)
        if link is not None:
            raise UnreadableResults(f"{expected.file}: its folder {link.name} is a link, which no run of ours leaves")
        return junit.read(path)

    def kept(self, expected: Expected) -> list[int]:
        """The attempts of which something is kept for this testsuite."""
        folder = self._of(expected.session) / ATTEMPTS
        numbers = sorted(int(path.name) for path in _listed(folder) if path.name.isdecimal() and len(path.name) < 4)
        return [number for number in numbers if _is_there(folder / str(number) / expected.file)]

    def strangers(self, suites: tuple[Expected, ...]) -> Iterator[str]:
        """Results that nobody expects, and folders of sessions that are none, with their folder where they have one."""
        wanted = {self.path(suite.session, suite.file) for suite in suites}
        folders = {self._of(suite.session) for suite in suites}
        if self._sorted:
            others = [path for path in _listed(self.folder) if path.name.startswith(PREFIX) or path.suffix == ".xml"]
            yield from (path.name for path in others if path not in folders)
        for folder in sorted(folders):
            files = [path for path in _listed(folder) if path.suffix == ".xml"]
            prefix = f"{folder.name}/" if self._sorted else ""
            yield from (f"{prefix}{path.name}" for path in files if path not in wanted)

    def _of(self, session: str) -> Path:
        return self.folder / f"{PREFIX}{session}" if self._sorted else self.folder

    def _between(self, path: Path) -> list[Path]:
        """The folders from the results' own down to a file."""
        return [folder for folder in path.parents if self.folder in folder.parents]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; no more than a run could have left."""
    try:
        return sorted(itertools.islice(folder.iterdir(), MOST_ENTRIES))
    except OSError:
        return []


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
