"""What every style of telling a run writes with."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from validation.checks.outcome import Outcome
from validation.checks.progress import Progress

Colour = dict[str, bool]
PLAIN: Colour = {}
RED, GREEN, YELLOW = {"red": True}, {"green": True}, {"yellow": True}
COLOURS = {"pass": PLAIN, "known": YELLOW, "unevaluated": YELLOW}
"""Of the statuses; red for all others."""


def progress_of(config: pytest.Config) -> Progress:
    """The one that has told since the command began; a new one if the user has started pytest."""
    found = next((one for one in config.pluginmanager.get_plugins() if isinstance(one, Progress)), None)
    return found or Progress(lambda text: config.get_terminal_writer().write(text, flush=True), in_place=False)


class Terminal:
    """Writes lines through pytest's own writer, which knows whether colours are wanted."""

    def __init__(self, config: pytest.Config, progress: Progress) -> None:
        self._config, self._progress = config, progress

    def write(self, line: str, **colours: bool) -> None:
        """A line, or several in one text."""
        writer: Any = self._config.get_terminal_writer()
        with self._progress.away():
            # In one piece: unbuffered, as CI systems set it, every write is a system call.
            writer.write(f"{line}\n", **colours)

    def check(self, outcome: Outcome) -> None:
        """The line of a check in the colour of its status, with the lines that belong to it."""
        self.write(outcome.line, **COLOURS.get(outcome.status, RED))
        if outcome.shown_details:
            self.write(outcome.shown_details)


class Style(Protocol):
    """How the checks of a run are told."""

    def begin(self, suite: str, *heading: str) -> None:
        """The checks of another case follow, or those of the self-test."""

    def ran(self, suite: str) -> None:
        """The ranks of a case have ended."""

    def checked(self, outcome: Outcome, undecided: bool) -> None:
        """A check has its outcome; `undecided` says that the run behind it broke."""

    def end(self, suite: str, seconds: float) -> None:
        """All checks of a testsuite have been told; its ranks took so long."""


class Silence:
    """Tells nothing: the verdict on the run is enough."""

    def begin(self, suite: str, *heading: str) -> None:
        """Nothing."""

    def ran(self, suite: str) -> None:
        """Nothing."""

    def checked(self, outcome: Outcome, undecided: bool) -> None:
        """Nothing."""

    def end(self, suite: str, seconds: float) -> None:
        """Nothing."""
