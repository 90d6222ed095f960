"""mutmut, as a command: runs it in a copy, and reads what became of each mutant."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from tests.mutants import progress
from tests.mutants.table import Mutation

NOTICED = ("killed", "timeout", "segfault", "suspicious", "check was interrupted by user")
"""A test failed, or its process ended otherwise than by passing. The last one is pytest's code for a broken import."""
SURVIVED = ("survived", "no tests")
_SHOWN = 4000
"""Characters of mutmut's output that are shown if it does not finish."""
_NAME = re.compile(r"(?P<module>.+)\.x(?:ǁ(?P<owner>.+)ǁ|_)(?P<function>.+)__mutmut_\d+")


class Broken(Exception):
    """mutmut did not come to an end, so nothing is known."""


@dataclass(frozen=True)
class Mutant:
    """A mutant by mutmut's name for it, and what became of it."""

    name: str
    status: str

    @property
    def module(self) -> str:
        """The path in the repository."""
        return f"{self._named('module').replace('.', '/')}.py"

    @property
    def function(self) -> str:
        """With its class in front."""
        owner = self._named("owner")
        return f"{owner}.{self._named('function')}" if owner else self._named("function")

    def _named(self, part: str) -> str:
        found = _NAME.fullmatch(self.name)
        return (found[part] or "") if found else ""


def run(folder: Path, workers: int) -> list[Mutant]:
    """Mutate and test in the copy, and print how far it has come. Raises Broken."""
    log = folder.with_name("mutmut.log")
    with progress.told(folder), log.open("w", encoding="utf-8") as file:
        code = _mutmut(folder, "run", "--max-children", str(workers), output=file).returncode
    mutants = [] if code else _ended(folder)
    unknown = [one for one in mutants if one.status not in (*NOTICED, *SURVIVED)]
    if unknown or not mutants:
        what = f"{unknown[0].name} is {unknown[0].status}" if unknown else f"exit code {code}, no mutants"
        raise Broken(f"mutmut did not finish ({what}); its last lines are:\n{_end_of(log)}")
    return mutants


def _ended(folder: Path) -> list[Mutant]:
    """What became of every mutant."""
    found = read(_mutmut(folder, "results", "--all", "true").stdout)
    not_run = {name for name, code in progress.exit_codes(folder).items() if code == progress.NOT_RUN}
    return [replace(one, status="not run") if one.name in not_run else one for one in found]


def _end_of(log: Path) -> str:
    """The last lines of mutmut's output, each as it was when it was drawn last."""
    lines = [line.rpartition("\r")[2].rstrip() for line in log.read_bytes().decode(errors="replace").split("\n")]
    return "\n".join(line for line in lines if line)[-_SHOWN:]


def read(results: str) -> Iterator[Mutant]:
    """What `mutmut results` says, line by line."""
    for line in results.splitlines():
        name, separator, status = line.strip().rpartition(": ")
        if separator and _NAME.fullmatch(name):
            yield Mutant(name, status)


def mutation(folder: Path, mutant: Mutant) -> Mutation:
    """What the mutant changes."""
    was, becomes = changed(_mutmut(folder, "show", mutant.name).stdout)
    return Mutation(mutant.module, mutant.function, was, becomes)


def changed(difference: str) -> tuple[str, str]:
    """The lines of a unified diff that go and that come, each joined to one."""
    body = difference.partition("\n@@")[2].splitlines()[1:]
    return _joined(body, "-"), _joined(body, "+")


def _joined(lines: list[str], sign: str) -> str:
    return " ".join(line[1:].strip() for line in lines if line.startswith(sign))


def _mutmut(folder: Path, *words: str, output: IO[str] | None = None) -> subprocess.CompletedProcess[str]:
    # One thread a process: the workers use the cores, and OpenMP's threads do not survive a fork.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", *words]
    # A file and no pipe for the run: a process that a test has left would keep a pipe open.
    streams: dict[str, Any] = {"stdout": output, "stderr": subprocess.STDOUT} if output else {"capture_output": True}
    return subprocess.run(command, cwd=folder, env=environment, text=True, check=False, **streams)
