"""The diagnosis at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ci.diagnosis import diagnose
from ci.junit import Check, Suite
from validation.case.case import Case
from validation.checks.facts import case_facts

Went = Mapping[str, Mapping[str, str]]
"""By testsuite the properties that say how it went: whether its run broke, and how many checks it lacks."""


def diagnosed(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], went: Went) -> Iterator[str]:
    """The lines that say what the failing cases of a run point to; none if nothing fails."""
    if found := diagnose(suites(cases, checks, went)):
        yield f"Diagnosis: {found.sentence}."
        if found.deciding:
            yield f"{found.deciding}."


def suites(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], went: Went) -> list[Suite]:
    """The testsuites of the cases, with as much as a diagnosis needs: what the page and the gate read in the files."""
    return [
        Suite(case.name, tuple(checks.get(case.name, ())), case_facts(case) | dict(went.get(case.name, {}))) for case in cases
    ]
