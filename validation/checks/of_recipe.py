"""What the checks of a case say of the settings of a recipe, for terminal and JUnit."""

from __future__ import annotations

from collections.abc import Sequence

from ci.junit import Check
from validation.case.case import Case
from validation.machine import version
from validation.recipe.coverage import Ran
from validation.run.known import table

OVERWRITTEN = "plugin_sets"
"""The property of a testsuite with the fields of the configuration to which a plugin gives another value."""
NOT_SHOWN = "plugin_not_shown"
"""The property with those of them that no check shows, and why."""


def ran(case: Case, checks: Sequence[Check], left_out: int, overwritten: tuple[str, ...] = ()) -> Ran:
    """The case, and what came of it; `left_out` checks were not made, and a plugin sets the `overwritten` fields otherwise."""
    release, statuses = version("megatron-core"), {check.status for check in checks}
    passed = bool(checks) and statuses <= {"pass", "known"}
    return Ran(case, release, passed, left_out, overwritten, _bugs(case, release) if "known" in statuses else {})


def _bugs(case: Case, release: str) -> dict[str, str]:
    """The settings of which this release shows a known upstream bug in this case, and what it is.

    A check that several bugs spoil names one of them.
    """
    return {setting: bug.what for bug in table() if bug.settings and bug.applies(case, release) for setting in bug.settings}
