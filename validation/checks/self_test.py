"""The self-test in the report: its heading, what it does not plant, and its JUnit file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from ci import junit
from validation.case.case import DEFAULT_SEED, Case
from validation.case.plural import many
from validation.faults.plan import Plan


class SelfTest:
    """What is planted beside the cases of a run, as a testsuite of its own. `case` is any of the run's."""

    def __init__(self, plan: Plan, case: Case) -> None:
        self.plan, self._case = plan, case

    @property
    def name(self) -> str:
        """The testsuite's: `self-test-tiny-tp2-fp64-local-gloo`. Runs that plant the same have the same name."""
        layouts = dict.fromkeys(plant.case.layout.name for plant in self.plan.plants if plant.case.layout.ranks > 1)
        case = self._case
        words = ["self-test", case.preset, "+".join(layouts) or "single", case.precision]
        words += [case.implementation.replace(":", "."), case.transport]
        return "-".join(words + ([f"seed{case.seed}"] if case.seed != DEFAULT_SEED else []))

    @property
    def heading(self) -> tuple[str, ...]:
        """The lines before its checks: what is planted, and what is not."""
        case, count = self._case, len(self.plan.plants)
        words = " / ".join((case.preset, case.precision, case.implementation, case.transport))
        counted = many(count, "planted defect")
        return (
            f"===== self-test / {words}: {counted} =====",
            *(f"Not planted: {group} - {why}" for group, why in self.plan.left_out),
        )

    def suite(self, checks: Iterable[junit.Check], facts: Mapping[str, str]) -> junit.Suite:
        """Its testsuite."""
        found = tuple(checks)
        seconds = sum(check.seconds for check in found)
        return junit.Suite(self.name, found, self.properties(facts), seconds, time.strftime("%Y-%m-%dT%H:%M:%S"))

    def properties(self, facts: Mapping[str, str]) -> dict[str, str]:
        """What is known before anything has run; `facts` are those of the machine and the command."""
        return self.case_facts() | dict(facts) | {f"not planted: {group}": why for group, why in self.plan.left_out}

    def case_facts(self) -> dict[str, str]:
        """What all of its cases share."""
        fields = ("preset", "precision", "implementation", "transport", "seed")
        return {field: str(getattr(self._case, field)) for field in fields}
