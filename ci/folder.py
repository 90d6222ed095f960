"""Where results lie, and how they are read. Whoever made them chose every name and every byte.

A session's files are in `results-SESSION`, which is the name of its artifact (`plumbline-NAME.results-SESSION` where the call
has a name), or, where there is no such folder at all, beside each other, as a run on one's own machine leaves them. What
attempts that broke have left is in `attempts/1`, `attempts/2`, ...
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Container, Iterator
from pathlib import Path

from ci import caller, junit
from ci.expected import Expected
from ci.junit import Suite, UnreadableResults

ATTEMPTS = "attempts"
_RESULTS = "results-"
MOST_ENTRIES = 10_000
"""Names in one folder."""


class Results:
    """A folder of results."""

    def __init__(self, folder: Path, by_session: bool | None = None) -> None:
        self.folder, self._prefix = folder, f"{caller.prefix(os.environ)}{_RESULTS}"
        found = any(path.name.startswith(self._prefix) for path in _listed(folder))
        self.by_session = found if by_session is None else by_session

    def path(self, session: str, file: str, attempt: int = 0) -> Path:
        """Where a session's file would be; `attempt` counts from 1, and 0 is the last one."""
        place = self._of(session)
        return place / ATTEMPTS / str(attempt) / file if attempt else place / file

    def suite(self, session: str, file: str, attempt: int = 0) -> Suite:
        """The testsuite that is there. Raises UnreadableResults."""
        path = self.path(session, file, attempt)
        between = [folder for folder in path.parents if self.folder in folder.parents]
        link = next((folder for folder in between if folder.is_symlink()), None)
        if link is not None:
            raise UnreadableResults(f"{file}: its folder {link.name} is a link, which no run of ours leaves")
        if not _is_there(path):
            raise UnreadableResults(f"{file}: is missing: no run has left it, or nobody has handed it over")
        return junit.read(path)

    def kept(self, expected: Expected) -> list[int]:
        """The attempts of which something is kept for this testsuite."""
        folder = self._of(expected.session) / ATTEMPTS
        numbers = sorted(int(path.name) for path in _listed(folder) if path.name.isdecimal() and len(path.name) < 4)
        return [number for number in numbers if _is_there(folder / str(number) / expected.file)]

    def files(self, sessions: Container[str] | None = None) -> Iterator[tuple[str, str]]:
        """Session and name of every file; of these sessions only, where the folder knows of sessions."""
        if not self.by_session:
            yield from (("", path.name) for path in _listed(self.folder) if path.suffix == ".xml")
            return
        for folder in _listed(self.folder):
            session = folder.name.removeprefix(self._prefix)
            if folder.name.startswith(self._prefix) and (sessions is None or session in sessions):
                yield from ((session, path.name) for path in _listed(folder) if path.suffix == ".xml")

    def strangers(self, suites: tuple[Expected, ...]) -> Iterator[str]:
        """Results that nobody expects, with their folder where they have one."""
        wanted = {self.path(suite.session, suite.file) for suite in suites}
        found = [self.path(session, file) for session, file in self.files()]
        if self.by_session:
            found += [path for path in _listed(self.folder) if path.suffix == ".xml"]
        yield from (str(path.relative_to(self.folder)) for path in found if path not in wanted)

    def _of(self, session: str) -> Path:
        return self.folder / f"{self._prefix}{session}" if self.by_session else self.folder


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; no more than a run could have left."""
    try:
        return sorted(itertools.islice(folder.iterdir(), MOST_ENTRIES))
    except OSError:
        return []


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
