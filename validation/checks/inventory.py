"""`--manifest`: every check that a command would report is written down, and nothing is run. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from ci import commit
from ci.expected import Excuse, Expected, Manifest, Name, save
from ci.requirements import required
from validation.case import writing
from validation.case.case import Case
from validation.case.errors import UsageError
from validation.checks.facts import case_facts, case_file
from validation.checks.parity import Parity, Stated
from validation.checks.planted import Planted
from validation.checks.self_test import SelfTest
from validation.checks.titles import Nothing, classname_of, stated_by
from validation.faults.plan import Plan
from validation.run.known import table
from validation.run.options import Settings


class Inventory(Nothing):
    """Stands in the report's place."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self._settings = settings
        self._self_test = SelfTest(plan, settings.cases[0])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All checks are known: write them down."""
        assert self._settings.manifest is not None
        try:
            writing.check_file(self._settings.manifest, "--manifest")
            suites = tuple(self._suites(session.items))
        except UsageError as error:
            pytest.exit(str(error), returncode=error.exit_code)
        told = commit.facts()
        save(self._settings.manifest, Manifest(suites, told.get("commit", ""), told["dirty"]))

    def pytest_runtestloop(self) -> bool:
        """Nothing is run."""
        return True

    def _suites(self, items: Iterable[Any]) -> Iterable[Expected]:
        found: dict[str, list[tuple[Name, Stated]]] = {}
        for item in items:
            name = self._suite_name(item)
            if name:
                stated = stated_by(item)
                found.setdefault(name, []).append(((classname_of(item.nodeid), stated.title), stated))
        if not found:
            raise UsageError("no check was selected; leave out -k, or name something that `--collect-only` lists")
        for name, checks in found.items():
            _each_once([check for check, _ in checks])
            yield self._expected(name, checks)

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
        return Expected(
            case_file(name),
            name,
            case.layout.ranks if case else 0,
            said,
            required(said["transport"], said["implementation"]),
            tuple(check for check, _ in checks),
            numberless=frozenset(check for check, stated in checks if not stated.compared),
            limit=_limit(stated for _, stated in checks),
            excuses=_excuses(case, checks) if case else (),
        )


def _each_once(checks: Sequence[Name]) -> None:
    twice = next((check for check, count in Counter(checks).items() if count > 1), None)
    if twice:
        raise UsageError(f"{twice[0]} has two checks that are called {twice[1]!r}; let each state something of its own")


def _limit(stated: Iterable[Stated]) -> float | None:
    """The largest relative error that passes; None where some tensor has a limit that only its reference tells."""
    limits = [one.limits for one in stated if one.compared]
    known = [one.relative_error for one in limits if one is not None]
    return max(known) if known and len(known) == len(limits) else None


def _excuses(case: Case, checks: Sequence[tuple[Name, Stated]]) -> tuple[Excuse, ...]:
    """The known upstream bugs that a version of megatron-core may show in this case."""
    found = ((bug, frozenset(name for name, stated in checks if bug.excuses(case, stated.compared))) for bug in table())
    return tuple(Excuse(bug.what, bug.megatron_core, named) for bug, named in found if named and bug.concerns(case))
