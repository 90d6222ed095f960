"""Makes docs/pictures/red-run.svg, the picture in README: what a red run prints, as a terminal shows it.

`python docs/pictures/make.py` runs the command and writes the picture. tests/guides compares it with what the command prints
now; if they differ, run this again and look at the result.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parents[2]
PICTURE = Path(__file__).with_name("red-run.svg")
DEFECT = "tests.checks.broken_specs:reduction_lost"
COMMAND = ("python", "-m", "validation", "run", "--layouts", "single,tp2,pp2,tp2ep2", "--implementation", DEFECT)
WIDTH = 100
"""Columns. As wide as GitHub shows a README, letters are then about as large as its own code."""
_BRIGHT = [(72, 79, 88), (255, 123, 114), (86, 211, 100), (227, 179, 65), (121, 192, 255), (210, 168, 255), (86, 212, 221)]
THEME = TerminalTheme((13, 17, 23), (230, 237, 243), [*_BRIGHT, (230, 237, 243)])
"""A dark window, which can be read on a light page and on a dark one. Contrast is 7 to 1 or more for text."""
_PROGRESS = re.compile(r"^\d+ of \d+ layouts done.*\n", re.MULTILINE)
"""What a terminal writes over."""
_END = re.compile(r"^Reproduce:.*\n", re.MULTILINE)
_FONTS = re.compile(r"\s*@font-face \{\{.*?\}\}", re.DOTALL)


def main() -> None:
    """Run the command and write the picture."""
    PICTURE.write_text(drawn(output()), encoding="utf-8")


def output() -> str:
    """What the command prints, with colours. Raises CalledProcessError unless it ends with 1: a check fails."""
    environment = {**os.environ, "FORCE_COLOR": "1", "CI": ""}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(
        [sys.executable, *COMMAND[1:]], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 1:
        raise subprocess.CalledProcessError(done.returncode, COMMAND, done.stdout)
    return done.stdout


def drawn(printed: str) -> str:
    """The SVG of the command and of what it printed, from the first row of the table to the first `Reproduce:`."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {shlex.join(COMMAND)}", style="bold"), soft_wrap=False)
    console.print(Text.from_ansi(shown(printed)), soft_wrap=False)
    plain = _FONTS.sub("", CONSOLE_SVG_FORMAT)  # GitHub shows no fonts of other sites
    return console.export_svg(title="Plumbline", theme=THEME, code_format=plain, unique_id="red-run")


def shown(printed: str) -> str:
    """The lines that the picture has."""
    lines = printed.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if "single " in line and "checks" in line)
    text = _PROGRESS.sub("", "".join(lines[first:]))
    end = _END.search(text)
    return text[: end.end()] if end else text


if __name__ == "__main__":
    main()
