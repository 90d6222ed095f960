"""The diagnosis at the end of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from ci.diagnosis import Diagnosis, decides, diagnose
from ci.diagnosis.evidence import RED
from ci.junit import Check, Suite
from validation.case.case import Case
from validation.checks.facts import case_facts
from validation.run.options import Settings
from validation.run.reproduce import command

Went = Mapping[str, Mapping[str, str]]
"""By testsuite the properties that say how it went: whether its run broke, and how many checks it lacks."""


def diagnosed(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], went: Went, wanted: Settings) -> Iterator[str]:
    """The lines that say what the failing cases of a run point to; none if nothing fails."""
    if found := diagnosis(cases, checks, went):
        yield f"Diagnosis: {found.sentence}."
        if case := decides(found.deciding):
            yield f"{found.deciding}."
            yield f"Decide: {_command(cases[0], *case, wanted)}"


def diagnosis(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], went: Went) -> Diagnosis | None:
    """What they point to; None if nothing fails, which is seen without a look at what thousands of sound checks say."""
    red = any(check.status in RED for found in checks.values() for check in found)
    return diagnose(suites(cases, checks, went)) if red or any("broken" in said for said in went.values()) else None


def _command(like: Case, arrangement: str, precision: str, implementation: str, wanted: Settings) -> str:
    """What runs a case that is like another one, but for its layout with options, its precision and its implementation."""
    words = shlex.split(command(like, "", wanted))
    for option, value in (("--layouts", arrangement), ("--precision", precision), ("--implementation", implementation)):
        if value and option in words:
            words[words.index(option) + 1] = value
        elif value:
            words += [option, value]
    return shlex.join(words)


def suites(cases: Sequence[Case], checks: Mapping[str, Sequence[Check]], went: Went) -> list[Suite]:
    """The testsuites of the cases, with as much as a diagnosis needs: what the page and the gate read in the files."""
    return [
        Suite(case.name, tuple(checks.get(case.name, ())), case_facts(case) | dict(went.get(case.name, {}))) for case in cases
    ]
