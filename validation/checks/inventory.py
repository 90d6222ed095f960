"""`--manifest`: every check that a command would report is written down, and nothing is run. No torch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from ci import commit
from ci.expected import Excuse, Expected, Manifest, Name, Tensor, save
from ci.requirements import required
from validation.case import writing
from validation.case.case import Case
from validation.case.covered import RECIPE
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.checks.counted import choices, difference
from validation.checks.facts import case_facts, case_file
from validation.checks.judging import Stated
from validation.checks.left_out import wanted
from validation.checks.parity import Parity
from validation.checks.planted import Planted
from validation.checks.self_test import SelfTest
from validation.checks.terminal import Terminal, progress_of
from validation.checks.titles import Nothing, component_of, stated_by
from validation.checks.uncollected import refusal
from validation.compare.limits import DECIDES_BELOW, DECIDES_BELOW_IN_FP8
from validation.faults.plan import Plan
from validation.recipe.coverage import covered, sets
from validation.run.known import table
from validation.run.options import Settings


class Inventory(Nothing):
    """Stands in the report's place."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self._settings = settings
        self._self_test = SelfTest(plan, settings.cases[0])
        self._refused: UsageError | None = None

    def refuse(self, error: UsageError) -> None:
        """The selection names no check."""
        self._refused = error

    def pytest_exception_interact(self, node: Any, report: Any) -> None:
        """A module whose checks are not known has no manifest."""
        if isinstance(report, pytest.CollectReport) and self._refused is None:
            self.refuse(refusal(node, report))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All checks are known: write them down."""
        path = self._settings.manifest
        if path is None or self._refused is not None:
            return
        try:
            writing.check_file(path, "--manifest")
            suites = tuple(self._suites(session.items))
        except UsageError as error:
            self._refused = error
            return
        told = commit.facts()
        self_tests = {"": case_file(self._self_test.name)} if self._settings.self_test else {}
        save(path, Manifest(suites, told.get("commit", ""), told["dirty"], self_tests))
        checks = sum(len(suite.checks) for suite in suites)
        said = f"{path}: {many(len(suites), 'testsuite')}, {many(checks, 'check')}"
        Terminal(session.config, progress_of(session.config)).write(said)

    def pytest_runtestloop(self) -> bool:
        """Nothing is run."""
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """The exit code of a manifest that was refused, and why."""
        if self._refused is not None:
            sys.stderr.write(f"error: {self._refused}\n")
            session.exitstatus = self._refused.exit_code

    def _suites(self, items: Iterable[Any]) -> Iterable[Expected]:
        found: dict[str, list[tuple[Name, Stated]]] = {}
        for item in items:
            name = self._suite_name(item)
            if name:
                stated = stated_by(item)
                found.setdefault(name, []).append(((component_of(item), stated.title), stated))
        if not found:
            raise UsageError("no check was selected; leave out -k, or name something that `--collect-only` lists")
        self._as_counted({name: [check for check, _ in checks] for name, checks in found.items()})
        for name, checks in found.items():
            _each_once([check for check, _ in checks])
            yield self._expected(name, checks)

    def _as_counted(self, collected: Mapping[str, Sequence[Name]]) -> None:
        """Raises UsageError for a manifest that would not ask for every check."""
        for name, checks in wanted(self._settings, self._self_test).items():
            if said := difference(checks, collected.get(name, ())):
                raise UsageError(f"{name}: {said}; a manifest names every check, so leave out whatever selects checks")

    def _suite_name(self, item: Any) -> str:
        """Where its report goes; a user's test that asks about no case has none."""
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if isinstance(parameters.get("planted"), Planted):
            return self._self_test.name
        parity = parameters.get("parity")
        return parity.case.name if isinstance(parity, Parity) else ""

    def _expected(self, name: str, checks: Sequence[tuple[Name, Stated]]) -> Expected:
        case = next((case for case in self._settings.cases if case.name == name), None)
        said = case_facts(case) if case else self._self_test.case_facts()
        trial = self._settings.trial if case else None
        if trial is not None:
            said |= {RECIPE: trial.recipe.source}
        tensors = {check: Tensor(stated.elements, _limit(case, stated)) for check, stated in checks if case and stated.compared}
        exact = frozenset(check for check, tensor in tensors.items() if tensor.limit == 0)
        return Expected(
            case_file(name),
            name,
            case.layout.ranks if case else 0,
            said,
            required(said["transport"], said["implementation"]),
            tuple(check for check, _ in checks),
            tensors=tensors,
            excuses=_excuses(case, checks) if case else (),
            near_ties=exact.intersection(choices(case)) if case and case.precision != "fp64" else frozenset(),
            covers={one.told.said: sets(case, one.told) for one in covered(trial, ())} if case and trial else {},
        )


def _each_once(checks: Sequence[Name]) -> None:
    twice = next((check for check, count in Counter(checks).items() if count > 1), None)
    if twice:
        raise UsageError(f"{twice[0]} has two checks that are called {twice[1]!r}; let each state something of its own")


def _limit(case: Case, stated: Stated) -> float:
    """The largest relative error that may pass a check.

    A limit that only the reference tells decides something: from a certain size on no check passes under it.
    """
    widest = DECIDES_BELOW if case.training.fp8 == "none" else DECIDES_BELOW_IN_FP8
    return stated.limits.relative_error if stated.limits else widest


def _excuses(case: Case, checks: Sequence[tuple[Name, Stated]]) -> tuple[Excuse, ...]:
    """The known upstream bugs that a version of megatron-core may show in this case."""
    found = ((bug, frozenset(name for name, stated in checks if bug.excuses(case, stated.compared))) for bug in table())
    return tuple(
        Excuse(bug.what, bug.megatron_core, named, bug.largest(case)) for bug, named in found if named and bug.concerns(case)
    )
