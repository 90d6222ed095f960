"""Exit codes, and the one exception per code that ends a run with a sentence instead of a traceback."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the process says to whoever started it (docs/design.md, section 5). Only `INFRASTRUCTURE` may be retried.

    `INTERRUPTED` is what a shell says of a program that Ctrl-C has ended.
    """

    PASS = 0
    FAIL = 1
    USAGE = 2
    ENVIRONMENT = 3
    INFRASTRUCTURE = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.PASS: "every check passes, or the command is done",
    ExitCode.FAIL: "a check failed, the code under test raised an exception, or the gate is red",
    ExitCode.USAGE: "wrong usage, or a case that is impossible; said before anything starts, with what would work",
    ExitCode.ENVIRONMENT: "something is missing: a GPU, a driver, a package, memory, room on a disk, open files, threads",
    ExitCode.INFRASTRUCTURE: "the run broke: out of memory, a lost rank, a time-out, a download that failed",
    ExitCode.INTERRUPTED: "Ctrl-C",
}
"""What each says to a reader (docs/exit-codes.md)."""


class PlumblineError(Exception):
    """A run that cannot go on; the message is one sentence: what is wrong, and what would work."""

    exit_code = ExitCode.FAIL


class UsageError(PlumblineError):
    """Wrong usage or an impossible case: said before anything starts."""

    exit_code = ExitCode.USAGE


class EnvironmentMissing(PlumblineError):
    """Something the case needs is not on this machine: a GPU, a driver, a package, memory."""

    exit_code = ExitCode.ENVIRONMENT


class InfrastructureError(PlumblineError):
    """The run broke and nothing can be said about the numbers: a lost rank, a time-out, out of memory."""

    exit_code = ExitCode.INFRASTRUCTURE


class Interrupted(PlumblineError):
    """Whoever gave the command has ended it, and something is to be said of what it leaves."""

    exit_code = ExitCode.INTERRUPTED
