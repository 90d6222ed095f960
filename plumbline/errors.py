"""What `check` raises if it cannot compare. A comparison that fails is no exception: it is a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plumbline.report import Report


class PlumblineError(Exception):
    """Nothing can be said about the numbers; the message is one sentence that says what would work.

    `exit_code` is that of the command line, `report` what is known all the same, None if nothing is.
    """

    exit_code = 1

    def __init__(self, sentence: str, report: Report | None = None) -> None:
        super().__init__(sentence)
        self.report = report


class UsageError(PlumblineError):
    """A keyword or a value that is wrong, or a case that is impossible. Nothing was started."""

    exit_code = 2


class EnvironmentMissing(PlumblineError):
    """Something is not on this machine: a GPU, a driver, a package, memory, room on a disk."""

    exit_code = 3


class RunBroke(PlumblineError):
    """The run did not finish: a lost rank, a time-out, out of memory. It may be tried again."""

    exit_code = 4
