"""What is wrong with a module of checks that pytest cannot collect, in a sentence: pytest's own pages of it are not shown."""

from __future__ import annotations

from typing import Any

from validation.case.errors import UsageError

_OF_THE_ERROR = "E "
"""With what pytest begins the lines of an exception."""


def refusal(module: Any, report: Any) -> UsageError:
    """The error of a module of checks, of which pytest has made this report."""
    lines = [line.strip() for line in str(report.longreprtext).splitlines() if line.strip()]
    of_error = [line.removeprefix(_OF_THE_ERROR).strip() for line in lines if line.startswith(_OF_THE_ERROR)]
    said = (of_error or lines or ["nothing said"])[-1]
    where = module.nodeid or module.path
    return UsageError(f"{where}: pytest cannot collect its checks ({said}); mend the file, or move it elsewhere")
