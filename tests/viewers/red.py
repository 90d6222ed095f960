"""A red run of four layouts as files, with the checks of real cases: a reduction is lost in tp2 and tp2ep2, pp2 breaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ci import junit
from ci.junit import UNEVALUATED, Check, Suite
from tests.ci import runs
from validation.checks.files import FIRST, cause_ahead, first_failure

CULPRIT = "Layer 0 Attention Output"
BROKEN = "Every rank finishes"
STACK = 'Traceback (most recent call last):\n  File "spec.py", line 3, in built\nStopIteration'
SENTENCE = "ERROR: Every rank finishes - rank 1 raised StopIteration()"


def suites() -> tuple[Suite, ...]:
    """The testsuites: single is right."""
    return _right("single"), _wrong("tp2"), _broken("pp2"), _wrong("tp2ep2")


def write(folder: Path) -> list[Path]:
    """Their files."""
    paths = [folder / f"{suite.name}.xml" for suite in suites()]
    for path, suite in zip(paths, suites(), strict=True):
        junit.write(path, suite)
    return paths


def failing(suite: Suite) -> list[str]:
    """The names of what fails or could not be decided, in the flow of data."""
    return [check.name for check in suite.checks if check.status in ("fail", "error")]


def _right(arrangement: str) -> Suite:
    found = runs.suite(arrangement)
    return replace(found, checks=(Check("run", BROKEN, "pass"), *found.checks))


def _wrong(arrangement: str) -> Suite:
    """From the culprit on, everything is wrong, as when a sum is lost."""
    right = _right(arrangement)
    at = [check.name for check in right.checks].index(CULPRIT)
    checks = [_failed(check, arrangement) for check in right.checks[at:]]
    return _with(right, (*right.checks[:at], *checks))


def _failed(check: Check, arrangement: str) -> Check:
    wrong = runs.check(check.name, "fail", check.component, reproduce=f"python -m validation run --layouts {arrangement}")
    return replace(wrong, failure="limit", details=f"{wrong.details}; pattern: one rank only; sharding: off by 7.0e-01")


def _broken(arrangement: str) -> Suite:
    right = _right(arrangement)
    error = Check("run", BROKEN, "error", message=SENTENCE, details=f"{SENTENCE}\n{STACK}", failure="exception")
    said = "not evaluated: the run did not finish"
    behind = [Check(check.component, check.name, UNEVALUATED, message=said, details=said) for check in right.checks[1:]]
    return _with(right, (error, *behind))


def _with(suite: Suite, checks: tuple[Check, ...]) -> Suite:
    first = first_failure(checks)
    assert first is not None
    return replace(suite, checks=cause_ahead(checks), properties={FIRST: first.message, **suite.properties})
