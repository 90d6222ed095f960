"""How many of its checks a run leaves out, whatever made it do so: by the count that is not pytest's (counted.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ci.junit import Check
from validation.checks.counted import OURS, Name, counted, planted
from validation.checks.self_test import SelfTest
from validation.run.options import Settings

PROPERTY = "left_out"
"""Of a testsuite: how many checks it lacks. A gate refuses it (ci/reasons.py)."""


def wanted(settings: Settings, self_test: SelfTest) -> Mapping[str, tuple[Name, ...]]:
    """Every check that a run must have, by the names of its testsuites."""
    found = {case.name: counted(case) for case in settings.cases}
    if settings.self_test:
        found[self_test.name] = planted(settings.cases)
    return found


class LeftOut:
    """Compares what a run reports with what it must have."""

    def __init__(self, settings: Settings, self_test: SelfTest) -> None:
        self._wanted = {name: set(checks) for name, checks in wanted(settings, self_test).items()}

    def also(self, suite: str, check: Name) -> None:
        """A check of a user's own module is wanted, too, if pytest has found it."""
        if check[0] not in OURS:
            self._wanted.setdefault(suite, set()).add(check)

    def count(self, suite: str, reported: Iterable[Check]) -> int:
        """How many checks of a testsuite were not reported."""
        return len(self._wanted.get(suite, set()) - {(check.component, check.name) for check in reported})

    def total(self, reported: Mapping[str, Sequence[Check]]) -> tuple[int, int]:
        """How many checks of all testsuites were not reported, and how many there are."""
        missing = sum(self.count(suite, reported.get(suite, ())) for suite in self._wanted)
        return missing, sum(map(len, self._wanted.values()))

    def properties(self, suite: str, reported: Iterable[Check]) -> dict[str, str]:
        """What a testsuite says of it; nothing if no check was left out."""
        missing = self.count(suite, reported)
        return {PROPERTY: str(missing)} if missing else {}
