"""The diagnosis at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ci.diagnosis import diagnose
from ci.junit import Check, Suite
from validation.case.case import Case
from validation.case.errors import ExitCode
from validation.checks.facts import case_facts


def diagnosed(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], broke: Mapping[str, ExitCode]) -> Iterator[str]:
    """The lines that say what the failing cases of a run point to; none if nothing fails.

    `checks` are those of each case by its name, and `broke` the exit codes of those that did not finish.
    """
    if found := diagnose(suites(cases, checks, broke)):
        yield f"Diagnosis: {found.sentence}."
        if found.deciding:
            yield f"{found.deciding}."


def suites(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], broke: Mapping[str, ExitCode]) -> list[Suite]:
    """The testsuites of the cases, with as much as a diagnosis needs."""
    return [Suite(case.name, tuple(checks.get(case.name, ())), _facts(case, broke)) for case in cases]


def _facts(case: Case, broke: Mapping[str, ExitCode]) -> dict[str, str]:
    how = {"broken": str(int(broke[case.name]))} if case.name in broke else {}
    return case_facts(case) | how
