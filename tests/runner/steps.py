"""The commands of docs/runner.md, block by block. A mark above each says whether a machine without a driver can run it.

<!-- step: run -->                              runs, and must succeed
<!-- step: run, ends with 3 without a driver --> runs, and must end with this code
<!-- step: skip, REASON -->                     is not run
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "runner.md"
_BLOCK = re.compile(
    r"(?:^<!-- step: (?P<mark>.*?) -->\n)?^```(?P<language>\w*)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL
)
_RUN = re.compile(r"run(?:, ends with (?P<code>\d+) without a driver)?")
_SKIP = re.compile(r"skip, (?P<reason>.+)")


@dataclass(frozen=True)
class Step:
    """A block of commands below a heading. It is skipped for a reason, or ends with a code."""

    heading: str
    commands: str
    skipped: str = ""
    code: int = 0

    @property
    def title(self) -> str:
        """The heading, and the first command."""
        return f"{self.heading}: {self.commands.splitlines()[0]}"


def steps(text: str) -> list[Step]:
    """Every block of the page. Raises ValueError for one that no mark says anything of."""
    return list(_steps(text))


def _steps(text: str) -> Iterator[Step]:
    for found in _BLOCK.finditer(text):
        if found["language"] == "text":  # what commands print
            continue
        heading = re.findall(r"^## (.*)$", text[: found.start()], re.MULTILINE)[-1]
        mark, commands = found["mark"] or "", found["commands"]
        if skip := _SKIP.fullmatch(mark):
            yield Step(heading, commands, skipped=skip["reason"])
        elif run := _RUN.fullmatch(mark):
            yield Step(heading, commands, code=int(run["code"] or 0))
        else:
            raise ValueError(f"{heading}: the block that begins with {commands.splitlines()[0]!r} has no mark: {mark!r}")


def script(chosen: Sequence[Step]) -> str:
    """One script of all steps that run: they share a shell, as a reader's do. The first that ends otherwise ends it."""
    return "".join(["set -euo pipefail\n", *(_lines(step) for step in chosen)])


def _lines(step: Step) -> str:
    if step.skipped:
        return _said(f"skipped, {step.skipped}: {step.title}")
    if not step.code:
        return f"{_said(step.title)}{step.commands}{_said('done')}"
    (command,) = step.commands.splitlines()
    return f'{_said(step.title)}code=0\n{command.partition("  #")[0]} || code=$?\n[ "$code" = {step.code} ]\n{_said("done")}'


def _said(text: str) -> str:
    return f"echo {shlex.quote(f'===== {text}')}\n"
