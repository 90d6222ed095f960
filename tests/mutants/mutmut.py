"""mutmut, as a command: runs it in a copy, and reads what became of each mutant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.mutants.table import Mutation

NOTICED = ("killed", "timeout", "segfault", "suspicious", "check was interrupted by user")
"""A test failed, or its process ended otherwise than by passing. The last one is pytest's code for a broken import."""
SURVIVED = ("survived", "no tests")
_NOT_RUN = 255
"""The exit code where pytest could not begin: a test may have another name in each process. mutmut calls that a timeout."""
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
    """Mutate and test in the copy; mutmut's progress goes to the terminal. Raises Broken."""
    ended = _mutmut(folder, "run", "--max-children", str(workers))
    told, not_run = _mutmut(folder, "results", "--all", "true", capture=True).stdout, set(_not_run(folder))
    mutants = [replace(one, status="not run") if one.name in not_run else one for one in read(told)]
    unknown = [one for one in mutants if one.status not in (*NOTICED, *SURVIVED)]
    if ended.returncode or unknown or not mutants:
        said = (
            f"{unknown[0].name} is {unknown[0].status}" if unknown else f"exit code {ended.returncode}, {len(mutants)} mutants"
        )
        raise Broken(f"mutmut did not come to its end in {folder} ({said}); its output above says why")
    return mutants


def read(results: str) -> Iterator[Mutant]:
    """What `mutmut results` says, line by line."""
    for line in results.splitlines():
        name, separator, status = line.strip().rpartition(": ")
        if separator and _NAME.fullmatch(name):
            yield Mutant(name, status)


def _not_run(folder: Path) -> Iterator[str]:
    """Mutants of which nothing is known, for no test was run on them."""
    for path in (folder / "mutants").rglob("*.py.meta"):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        yield from (name for name, code in codes.items() if code == _NOT_RUN)


def mutation(folder: Path, mutant: Mutant) -> Mutation:
    """What the mutant changes."""
    was, becomes = changed(_mutmut(folder, "show", mutant.name, capture=True).stdout)
    return Mutation(mutant.module, mutant.function, was, becomes)


def changed(difference: str) -> tuple[str, str]:
    """The lines of a unified diff that go and that come, each joined to one."""
    body = difference.partition("\n@@")[2].splitlines()[1:]
    return _joined(body, "-"), _joined(body, "+")


def _joined(lines: list[str], sign: str) -> str:
    return " ".join(line[1:].strip() for line in lines if line.startswith(sign))


def _mutmut(folder: Path, *words: str, capture: bool = False) -> subprocess.CompletedProcess[str]:
    # One thread a process: the workers use the cores, and OpenMP's threads do not survive a fork.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=capture, text=True, check=False)
