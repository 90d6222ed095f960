"""Which style tells a run."""

from __future__ import annotations

from validation.checks.every_line import EveryLine
from validation.checks.one_case import OneCase
from validation.checks.progress import Progress
from validation.checks.rows import Rows
from validation.checks.terminal import Silence, Style, Terminal
from validation.run.command_line import ALL, JSON, VERDICT
from validation.run.options import Settings

FEW = 40
"""Checks of a run that are told one by one, whatever it is told by: a reproduction has one."""


def style_of(settings: Settings, terminal: Terminal, progress: Progress, checks: int) -> Style:
    """The one that was asked for; else what fits so many cases and checks. `--debug` shows pieces check by check.

    With JSON `-v` is about the document: it has all checks, and standard error need not have them again.
    """
    if settings.show == VERDICT:
        return Silence()
    if (settings.show == ALL and settings.format != JSON) or settings.debug or checks <= FEW:
        return EveryLine(terminal, settings)
    if len(settings.cases) == 1:
        return OneCase(terminal, settings.cases[0])
    return Rows(terminal, progress, settings.cases)
