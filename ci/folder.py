"""Where results lie, and how they are read. Whoever made them chose every name and every byte.

A session's files are in `results-SESSION`, which is the name of its artifact (`plumbline-NAME.results-SESSION` where the call
has a name), or, where no wanted session has such a folder, beside each other, as a run on one's own machine leaves them. What
attempts that broke have left is in `attempts/1`, `attempts/2`, ... Other folders and files are not a session's, and not read.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from ci import caller, junit
from ci.expected import Expected
from ci.junit import Suite, UnreadableResults

ATTEMPTS = "attempts"
BEFORE = "before"
"""Where a run moves what an earlier one left in its place, as validation/checks/before.py calls it."""
DEBUG = "debug"
"""Where a run with --debug keeps what its ranks left."""
_RESULTS = "results-"
MOST_ENTRIES = 10_000
"""Names in one folder."""


class Results:
    """A folder of results."""

    def __init__(self, folder: Path, by_session: bool | None = None) -> None:
        self.folder, self._prefix = folder, f"{caller.prefix(os.environ)}{_RESULTS}"
        found = any(path.name.startswith(self._prefix) for path in _listed(folder))
        self.by_session = found if by_session is None else by_session

    def of(self, sessions: Iterable[str]) -> Results:
        """The same folder as seen by a manifest: another job's `results-...` does not make folders of what has none."""
        return Results(self.folder, any(_is_there(self.folder / f"{self._prefix}{name}") for name in sessions if name))

    def path(self, session: str, file: str, attempt: int = 0) -> Path:
        """Where a session's file would be; `attempt` counts from 1, and 0 is the last one."""
        place = self._of(session)
        return place / ATTEMPTS / str(attempt) / file if attempt else place / file

    def name(self, expected: Expected) -> str:
        """The same place as reports call it."""
        return str(self.path(expected.session, expected.file).relative_to(self.folder))

    def has(self, expected: Expected) -> bool:
        """Whether there is a file of this testsuite's name."""
        return _is_there(self.path(expected.session, expected.file))

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
        """The attempts of which something is kept under this testsuite's name, by whatever run."""
        folder = self._of(expected.session) / ATTEMPTS
        numbers = sorted(int(path.name) for path in _listed(folder) if path.name.isdecimal() and len(path.name) < 4)
        return [number for number in numbers if _is_there(folder / str(number) / expected.file)]

    def files(self, sessions: Container[str] | None = None) -> Iterator[tuple[str, str]]:
        """Session and name of every file; of these sessions only, where the folder knows of sessions."""
        if not self.by_session:
            yield from (("", path.name) for path in _listed(self.folder) if _is_xml(path))
            return
        for folder in _listed(self.folder):
            session = folder.name.removeprefix(self._prefix)
            if folder.name.startswith(self._prefix) and (sessions is None or session in sessions):
                yield from ((session, path.name) for path in _listed(folder) if _is_xml(path))

    def strangers(self, suites: Collection[Expected], runs: Container[str]) -> Iterator[str]:
        """Results of the manifest's sessions that it does not name.

        What lies in a session's own folder is of that session. In a flat folder, only what one of its `runs` wrote is.
        """
        wanted = {self.path(suite.session, suite.file) for suite in suites}
        found = [self.path(session, file) for session, file in self.files({suite.session for suite in suites})]
        for path in found:
            if path not in wanted and (self.by_session or _is_of(path, runs)):
                yield str(path.relative_to(self.folder))

    def _of(self, session: str) -> Path:
        return self.folder / f"{self._prefix}{session}" if self.by_session else self.folder


def _is_of(path: Path, runs: Container[str]) -> bool:
    try:
        return junit.read(path).run in runs
    except UnreadableResults:
        return False


def reports(folder: Path) -> list[Path]:
    """Every JUnit file in a folder and below it, but for what is out of a run's way: attempts that broke, earlier reports."""
    aside = {ATTEMPTS, BEFORE, DEBUG}
    return [path for path in sorted(folder.rglob("*.xml")) if aside.isdisjoint(path.relative_to(folder).parts[:-1])]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; no more than a run could have left."""
    try:
        return sorted(itertools.islice(folder.iterdir(), MOST_ENTRIES))
    except OSError:
        return []


def _is_xml(path: Path) -> bool:
    """Whether viewers take it for results; some do so whatever the case of the letters."""
    return path.suffix.lower() == ".xml"


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
