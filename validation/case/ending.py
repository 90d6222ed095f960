"""How a command ends if its output has nowhere to go or somebody interrupts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from validation.case import exhausted, interrupts
from validation.case.errors import ExitCode


def code_of(command: Callable[[], int]) -> int:
    """Run the command and write out what it has said; returns its exit code, or that of what has ended it."""
    try:
        try:
            code = command()
            sys.stdout.flush()
        finally:
            interrupts.over()
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`): the run did not finish, and there is nobody to tell.
        _say_no_more()
        return ExitCode.INFRASTRUCTURE
    except OSError as error:
        if not exhausted.told(error):
            raise
        # What is still to be written has nowhere to go.
        sys.stderr.write(f"error: the output cannot be written ({error.strerror}); make room where it goes\n")
        _say_no_more()
        return ExitCode.ENVIRONMENT
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return ExitCode.INTERRUPTED
    return code


def _say_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
