"""What the checks say of a result that is there, all of them, without a word to the user."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from validation.case.case import Case
from validation.checks.judging import Runs
from validation.checks.marks import concerns, members
from validation.checks.parity import Parity

if TYPE_CHECKING:
    from validation.compare.verdict import Verdict
    from validation.run.result import Result


class _There:
    """A result that is there already, and that of the same case without its known upstream bugs."""

    def __init__(self, result: Result, without: Result | None) -> None:
        self._result, self._without = result, without

    def result(self, case: Case) -> Result:
        """The one result."""
        return self._result

    def against_single(self, case: Case) -> Result | None:
        """Nobody asks where a failure comes from."""
        return None

    def without_bugs(self, case: Case) -> Result:
        """The other result; one that decides nothing where it is not there."""
        from validation.run.launch import Broken
        from validation.run.result import Result

        return self._without or Result(case, 0.0, {}, broken=Broken(None, "nobody ran it", ""))

    def again(self, case: Case) -> Result | None:
        """Nobody ran it once more."""
        return None


def verdicts(result: Result, without: Result | None = None) -> Iterator[Verdict]:
    """What the checks of this folder say of a result, a user's own among them where they ask nothing but their case.

    `without` is the result of the same case with its known upstream bugs taken out, where it has any: it judges the checks
    behind them, which are an error where it is not there.
    """
    yield from (verdict for _, verdict in said_by(result.case, _There(result, without)))


def said_by(case: Case, runs: Runs) -> Iterator[tuple[str, Verdict]]:
    """The component and the verdict of every check of this folder on a case whose results come from `runs`."""
    for check in _checks(case):
        for given in _members(check, case):
            parity = Parity(case, runs)
            # What it says is in its verdict.
            with contextlib.suppress(Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception):
                check(parity=parity, **given)
            if parity.verdict is not None:
                yield check.__module__.rpartition(".")[2].removeprefix("test_"), parity.verdict


def _checks(case: Case) -> Iterator[Callable[..., None]]:
    """Those of the modules that are about what the case does."""
    package = __package__ or ""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if not module.name.startswith("test_"):
            continue
        found = importlib.import_module(f"{package}.{module.name}")
        if concerns(found, case):
            for name, function in vars(found).items():
                if name.startswith("test_") and "parity" in inspect.signature(function).parameters:
                    yield function


def _members(check: Any, case: Case) -> list[dict[str, Any]]:
    """The arguments beside its case with which pytest would call a check; none where it asks for what only pytest has."""
    mark = next((mark for mark in getattr(check, "pytestmark", []) if mark.name == "every"), None)
    names = set(inspect.signature(check).parameters) - {"parity"}
    if mark is None:
        return [] if names else [{}]
    name, kind = mark.args
    return [{name: member} for member in members(kind, case)] if names == {name} else []
