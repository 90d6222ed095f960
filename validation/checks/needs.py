"""What the selected checks of a case need of its ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from validation.case.case import Case
from validation.case.depth import ALL, needed
from validation.checks.counted import OURS
from validation.checks.files import RUN
from validation.checks.titles import component_of, stated_by
from validation.run.known import known_bugs


@dataclass(frozen=True)
class Needs:
    """How far the ranks go (validation.case.depth), and whether a second run without known upstream bugs judges any check."""

    upto: str = ALL
    without_bugs: bool = True

    @classmethod
    def of(cls, case: Case, items: Iterable[Any]) -> Needs:
        """From the tensors that the checks compare.

        A check of a user's own module may look at anything. That every rank finishes is about the whole run: one that breaks in
        its last step, or without its known bugs, must break again if this check alone is selected.
        """
        names = set()
        for item in items:
            if component_of(item) not in OURS - {RUN}:
                return cls()
            names.add(stated_by(item).compared)
        bugs = known_bugs(case)
        behind = any(bug.unlimited(case) or any(bug.excuses(case, name) for name in names if name) for bug in bugs)
        return cls(needed(case, names), behind)
