"""What a comparison has found, as data: a report has cases, and a case has checks (docs/python.md)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

FAILING = ("fail", "error")
_SHOWN = 5
"""Failures of a case that its text lists."""
_LONGEST = 200
"""Characters of what a short text says."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statement that must hold.

    `verdict` is `pass`, `fail`, `known` (an upstream bug that Plumbline lists), `error` (not decided) or `unevaluated`.
    `component` is what it is about, such as `mla`. Numbers are None if nothing was compared or if they are not finite:
    `max_diff` and `avg_diff` are absolute, `rel_error` is the relative Frobenius error, `tolerance` the most that passes and
    `floor` what rounding alone does to the tensor. `worst_index` is the place of the largest difference in the whole tensor,
    `worst_rank` the rank that holds it, `ranks` those that were compared. `message` is what is wrong in one line, `text` all
    that is known; both are empty if the check passes. `known` is the id of the bug, `kind` is `sharding`, `modelling` or
    empty, and `reproduce` a command for a shell that makes this check alone.
    """

    name: str
    verdict: str
    component: str = ""
    message: str = ""
    text: str = ""
    max_diff: float | None = None
    avg_diff: float | None = None
    rel_error: float | None = None
    tolerance: float | None = None
    floor: float | None = None
    worst_index: tuple[int, ...] | None = None
    worst_rank: int | None = None
    ranks: tuple[int, ...] = ()
    known: str = ""
    kind: str = ""
    reproduce: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is no reason for a red run: it passes, or shows a known upstream bug."""
        return self.verdict in ("pass", "known")

    def __str__(self) -> str:
        return self.message or f"{self.verdict.upper()}: {self.name}"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One layout, or the self-test, whose `layout` is empty.

    `verdict` is `PASS`, `FAIL` or `ERROR`; `seconds` is how long its ranks took. `checks` are in the flow of data.
    `reproduce` is the command that runs the first failure again, empty if nothing fails. `junit` is the JUnit file, None if no
    folder was named for it.
    """

    name: str
    layout: str
    self_test: bool
    verdict: str
    seconds: float
    counts: Mapping[str, int]
    checks: tuple[Check, ...]
    reproduce: str = ""
    junit: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether all of its checks passed."""
        return self.verdict == "PASS"

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that fail, or could not be decided."""
        return tuple(check for check in self.checks if check.verdict in FAILING)

    @property
    def first_failure(self) -> Check | None:
        """The failure nearest to the cause: the first in the flow of data. None if nothing fails."""
        return next(iter(self.failed), None)

    def __getitem__(self, name: str) -> Check:
        """The check of this name. Raises KeyError."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return f"<{self.layout or self.name}: {self.verdict} ({counted})>"


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """What came of a comparison.

    `exit_code` is that of the command line, 0 or 1. `diagnosis` is the likely cause of all failures in a sentence, and
    `deciding` names the case that would decide between two causes; both are empty if nothing fails. `left_out` is how many
    checks were left out by `only` or `last_failed`. `command` is the command line that does the same.
    """

    verdict: str
    exit_code: int
    cases: tuple[Case, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    left_out: int = 0
    diagnosis: str = ""
    deciding: str = ""
    command: str = ""

    @property
    def passed(self) -> bool:
        """Whether every check passed that was made. Known upstream bugs do not count."""
        return self.exit_code == 0

    @property
    def checks(self) -> tuple[Check, ...]:
        """Those of all cases."""
        return tuple(check for case in self.cases for check in case.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that fail, or could not be decided, of all cases."""
        return tuple(check for case in self.cases for check in case.failed)

    @property
    def first_failure(self) -> Check | None:
        """That of the first case that fails, None if none does."""
        return next(iter(self.failed), None)

    def __getitem__(self, layout: str) -> Case:
        """The case of a layout, or of a testsuite's name. Raises KeyError."""
        for case in self.cases:
            if layout in (case.layout, case.name):
                return case
        raise KeyError(layout)

    def dataframe(self) -> Any:
        """A pandas DataFrame with a row for each check and a column for each of its numbers and words.

        Raises ImportError without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            sentence = (
                f"pandas is not installed for {sys.executable}; `pip install pandas`, or use report.checks, which needs none"
            )
            raise ImportError(sentence) from error
        columns = [one.name for one in fields(Check)]
        rows = [
            [case.layout or case.name, *(getattr(check, name) for name in columns)]
            for case in self.cases
            for check in case.checks
        ]
        return pandas.DataFrame(rows, columns=["layout", *columns])

    def __repr__(self) -> str:
        """Short: pytest cuts a longer one behind `assert report.passed, report` in the middle."""
        said = self.diagnosis or self._counted()
        return f"<{self.verdict}: {said if len(said) <= _LONGEST else f'{said[:_LONGEST]}...'}>"

    def __str__(self) -> str:
        """All that a failing test should show: the diagnosis, the first failures of each case, how to see them again."""
        return "\n".join(self._lines())

    def _counted(self) -> str:
        counted = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return (counted or "no check") + (f", {self.left_out} left out" if self.left_out else "")

    def _lines(self) -> Iterator[str]:
        yield f"{self.verdict}: {self._counted()}"
        if self.diagnosis:
            yield f"Diagnosis: {self.diagnosis}"
        if self.deciding:
            yield f"{self.deciding}."
        for case in self.cases:
            yield f"{case.layout or case.name}: {case.verdict}"
            yield from (f"  {check}" for check in case.failed[:_SHOWN])
            if len(case.failed) > _SHOWN:
                yield f"  ... and {len(case.failed) - _SHOWN} more"
            if case.reproduce:
                yield f"  Reproduce: {case.reproduce}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from plumbline.html import html

        return html(self)
