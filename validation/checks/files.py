"""The JUnit files of a run: one that says "did not finish" before ranks start, and one with what came out."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci import commit, junit, names, run
from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.checks import before
from validation.checks.excused import excused
from validation.checks.facts import case_facts, case_file
from validation.checks.self_test import SelfTest
from validation.checks.testcase import ranks_of
from validation.machine import machine
from validation.reference.divisor import definition
from validation.run.options import Settings
from validation.run.reproduce import command

if TYPE_CHECKING:
    from validation.run.result import Result


FIRST = "first_failure"
"""The property of a testsuite that names its first failure."""
RUN = "run"
"""The component of the check of the run itself."""


class Files:
    """Writes a file per case, and one for the self-test. `words` are a user's own for pytest."""

    def __init__(self, settings: Settings, self_test: SelfTest, words: Sequence[str]) -> None:
        self._settings, self._self_test, self._words = settings, self_test, words
        self.kept: list[before.Kept] = []
        """Reports of earlier runs that are worth more than what takes their place."""
        self._machine: dict[str, str] = {}
        self._commit: dict[str, str] = {}
        self._run_of = run.begun()

    def begin(self, selected: Mapping[Case, int], planted: int, early: bool = False) -> None:
        """Write what stands if the run does not end: for each case with so many `selected` checks, and for the self-test.

        `early` says that the run may end before it has made them all.
        """
        self._machine, self._commit = machine(), commit.facts()
        for case, checks in selected.items():
            self._begin(self.path(case.name), case.name, self._facts(case, {}), 0 if early else checks)
        if planted:
            name = self._self_test.name
            self._begin(self.path(name), name, self._self_test.properties(self._common_facts()), 0 if early else planted)

    def _begin(self, path: Path, name: str, facts: Mapping[str, str], checks: int) -> None:
        with _ending_the_run(path):
            kept = before.ASIDE.settle(path, {} if name == self._self_test.name else facts, checks)
            self.kept += [kept] if kept else []
            junit.write_unfinished(path, name, facts)

    def end(self, result: Result, checks: Sequence[junit.Check], more: Mapping[str, str]) -> None:
        """Write the file of a case; `more` are properties that the run adds."""
        case = result.case
        facts = {key: str(value) for key, value in result.facts.items() if not isinstance(value, (list, dict))}
        known = {f"known_{bug.bug}": bug.line for bug in excused(check.properties for check in checks)}
        again = {"reproduce": command(case, "", self._settings)}
        suite = junit.Suite(
            name=case.name,
            checks=cause_ahead(checks),
            properties=_told_above(checks) | self._facts(case, facts) | ranks_of(result) | known | dict(more) | again,
            seconds=result.seconds,
            timestamp=time.strftime("%Y-%m-%dT%H:%M:%S"),
        )
        written(self.path(case.name), suite)

    def end_self_test(self, checks: Sequence[junit.Check], more: Mapping[str, str]) -> None:
        """The same for the self-test."""
        facts = _told_above(checks) | self._common_facts() | dict(more)
        written(self.path(self._self_test.name), self._self_test.suite(cause_ahead(checks), facts))

    def path(self, suite: str) -> Path:
        """Where the testsuite of that name goes."""
        return self._settings.results / case_file(suite)

    def _facts(self, case: Case, more: Mapping[str, str]) -> dict[str, str]:
        # The ranks of the self-test run without the user's plugin.
        plugin = {"plugin": self._settings.plugin} if self._settings.plugin else {}
        mtp = {"mtp_loss": definition(case)} if case.model.mtp_layers else {}
        return {**case_facts(case), **self._common_facts(), **plugin, **mtp, **more}

    def _common_facts(self) -> dict[str, Any]:
        # A plugin of pytest can change what a check says.
        words = {"pytest_options": shlex.join(self._words)} if self._words else {}
        return {
            "command": self._settings.command,
            junit.RUN: self._run_of,
            **names.session(),
            **words,
            **self._commit,
            **self._machine,
        }


def first_failure(checks: Iterable[junit.Check]) -> junit.Check | None:
    """Of checks in the flow of data the failure that is nearest to the cause."""
    return next(filter(_fails, checks), None)


def _fails(check: junit.Check) -> bool:
    return check.status in ("fail", "error")


def cause_ahead(checks: Sequence[junit.Check]) -> tuple[junit.Check, ...]:
    """The checks of a file, in the flow of data but for its first failure, which stands directly behind the run itself.

    Viewers group by class, in the order in which the classes appear, and show no more than some failures: ten as
    dorny/test-reporter is made. In the flow of data alone a failure far behind the cause may be of a class that appears before.
    """
    front = next((at for at, check in enumerate(checks) if check.component != RUN), len(checks))
    at = next((at for at, check in enumerate(checks) if _fails(check)), front)
    if at < front:
        return tuple(checks)
    return (*checks[:front], *checks[at : at + 1], *checks[front:at], *checks[at + 1 :])


def _told_above(checks: Sequence[junit.Check]) -> dict[str, str]:
    """What a viewer shows above the checks, for it may sort them by name: the failure that is nearest to the cause."""
    first = first_failure(checks)
    return {FIRST: first.message.partition("\n")[0]} if first else {}


def written(path: Path, suite: junit.Suite) -> None:
    """Write a testsuite's file."""
    with _ending_the_run(path):
        junit.write(path, suite)


@contextmanager
def _ending_the_run(path: Path) -> Iterator[None]:
    """Within it a disk that is full ends the run, for what nobody can read proves nothing."""
    try:
        yield
    except OSError as error:
        said = f"{path} cannot be written: {error.strerror}; make room there, or name another folder with --results"
        pytest.exit(said, returncode=ExitCode.ENVIRONMENT)
