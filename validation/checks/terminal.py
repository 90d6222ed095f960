"""What a user sees while checks run."""

from __future__ import annotations

import pytest

from validation.checks.outcome import Outcome
from validation.checks.printed import printed
from validation.run.options import Settings

RED, GREEN, YELLOW = {"red": True}, {"green": True}, {"yellow": True}
_COLOURS: dict[str, dict[str, bool]] = {"pass": {}, "known": YELLOW, "unevaluated": YELLOW}


class Terminal:
    """Writes lines through pytest's own writer."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def write(self, line: str, **colours: bool) -> None:
        """A line, or several in one text."""
        # In one piece: unbuffered, as CI systems set it, every write is a system call.
        self._config.get_terminal_writer().write(f"{line}\n", **colours)

    def check(self, outcome: Outcome) -> None:
        """The line of a check in the colour of its status."""
        self.write(outcome.line, **_COLOURS.get(outcome.status, RED))


class EveryLine:
    """A line for every check, below the headings of its case and of its section."""

    def __init__(self, terminal: Terminal, settings: Settings) -> None:
        self._terminal, self._settings = terminal, settings
        self._section = ""

    def begin(self, *heading: str) -> None:
        """The checks of another case follow, or those of the self-test."""
        self._section = ""
        for line in heading:
            self._terminal.write(line)

    def ran(self, suite: str) -> None:
        """The ranks of the case have ended."""
        for line in printed(self._settings.results / "debug" / suite) if self._settings.debug else ():
            self._terminal.write(line)

    def checked(self, outcome: Outcome, undecided: bool) -> None:
        """A check has its outcome; `undecided` says that the run behind it broke."""
        if undecided and outcome.verdict is not None and not outcome.verdict.details:
            return  # one line says that the run broke; a hundred would hide it
        if outcome.section != self._section and not undecided:
            self._section = outcome.section
            self._terminal.write(f"--- {outcome.section} ---")
        self._terminal.check(outcome)
        shown = outcome.shown_details + self._pieces(outcome)
        if shown:
            self._terminal.write(shown)

    def _pieces(self, outcome: Outcome) -> str:
        if not self._settings.debug or outcome.verdict is None:
            return ""
        from validation.compare.verdict import piece_lines

        return "\n".join(f"    {line}" for line in piece_lines(outcome.verdict))
