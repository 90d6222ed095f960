"""Exit codes, and the kinds of failure in JUnit."""

from __future__ import annotations

from docs.made.tables import code, table
from validation.case.errors import MEANINGS, ExitCode
from validation.case.failures import KINDS


def exit_codes() -> str:
    """What each code says, and whether it may be tried again."""
    rows = [(str(int(one)), MEANINGS[one], "yes" if one == ExitCode.INFRASTRUCTURE else "no") for one in ExitCode]
    return table(("code", "what happened", "may be tried again"), rows)


def kinds() -> str:
    """The closed list of what `type` may say."""
    return table(("type", "meaning"), ((code(kind), meaning) for kind, meaning in KINDS.items()))
