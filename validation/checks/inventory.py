"""`--manifest`: every check that a command would report is written down, and nothing is run. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from ci import commit
from ci.expected import Expected, Manifest, save
from ci.requirements import minimum
from validation.case.errors import UsageError
from validation.checks.facts import case_facts, case_file
from validation.checks.parity import Parity
from validation.checks.planted import Planted
from validation.checks.self_test import SelfTest
from validation.checks.titles import Nothing, classname_of, title_of
from validation.faults.plan import Plan
from validation.run.options import Settings


class Inventory(Nothing):
    """Stands in the report's place."""

    def __init__(self, settings: Settings, plan: Plan) -> None:
        self._settings = settings
        self._self_test = SelfTest(plan, settings.cases[0])

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """All checks are known: write them down."""
        try:
            suites = tuple(self._suites(session.items))
        except UsageError as error:
            pytest.exit(str(error), returncode=error.exit_code)
        told = commit.facts()
        assert self._settings.manifest is not None
        save(self._settings.manifest, Manifest(suites, told.get("commit", ""), told["dirty"]))

    def pytest_runtestloop(self) -> bool:
        """Nothing is run."""
        return True

    def _suites(self, items: Iterable[Any]) -> Iterable[Expected]:
        found: dict[str, list[tuple[str, str]]] = {}
        for item in items:
            name = self._suite_name(item)
            if name:
                found.setdefault(name, []).append((classname_of(item.nodeid), title_of(item)))
        if not found:
            raise UsageError("no check was selected; leave out -k, or name something that `--collect-only` lists")
        for name, checks in found.items():
            yield self._expected(name, _each_once(checks))

    def _suite_name(self, item: Any) -> str:
        """Where its report goes; a user's test that asks about no case has none."""
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if isinstance(parameters.get("planted"), Planted):
            return self._self_test.name
        parity = parameters.get("parity")
        return parity.case.name if isinstance(parity, Parity) else ""

    def _expected(self, name: str, checks: tuple[tuple[str, str], ...]) -> Expected:
        case = next((case for case in self._settings.cases if case.name == name), None)
        said = case_facts(case) if case else self._self_test.case_facts()
        ranks = case.layout.ranks if case else 0
        return Expected(case_file(name), name, ranks, said, minimum(said["transport"], said["implementation"]), checks)


def _each_once(checks: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    twice = next((check for check, count in Counter(checks).items() if count > 1), None)
    if twice:
        raise UsageError(f"{twice[0]} has two checks that are called {twice[1]!r}; let each state something of its own")
    return tuple(checks)
