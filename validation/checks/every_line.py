"""A line for every check: `-v`, and every run of few checks."""

from __future__ import annotations

from validation.checks.outcome import Outcome
from validation.checks.printed import printed
from validation.checks.terminal import Terminal
from validation.run.options import Settings


class EveryLine:
    """Tells every check below the headings of its case and of its section; with `--debug` every rank's pieces, too."""

    def __init__(self, terminal: Terminal, settings: Settings) -> None:
        self._terminal, self._settings = terminal, settings
        self._section = ""

    def begin(self, suite: str, *heading: str) -> None:
        """The heading."""
        self._section = ""
        for line in heading:
            self._terminal.write(line)

    def ran(self, suite: str) -> None:
        """What the ranks printed, with --debug."""
        for line in printed(self._settings.results / "debug" / suite) if self._settings.debug else ():
            self._terminal.write(line)

    def checked(self, outcome: Outcome, undecided: bool) -> None:
        """The line, below a heading if a section begins."""
        if undecided and outcome.says_nothing:
            return  # one line says that the run broke; a hundred would hide it
        if outcome.section != self._section and not undecided:
            self._section = outcome.section
            self._terminal.write(f"--- {outcome.section} ---")
        self._terminal.check(outcome)
        if pieces := self._pieces(outcome):
            self._terminal.write(pieces)

    def end(self, suite: str, seconds: float) -> None:
        """Nothing more."""

    def _pieces(self, outcome: Outcome) -> str:
        if not self._settings.debug or outcome.verdict is None:
            return ""
        from validation.compare.verdict import piece_lines

        return "\n".join(f"    {line}" for line in piece_lines(outcome.verdict))
