"""What stands in pages: blocks of code, tables, and the sentences between them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.docs.markdown import DOCS, ROOT

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
GUIDES = tuple(
    DOCS / f"{name}.md"
    for name in (
        "quick-start",
        "comparing",
        "layouts",
        "own-spec",
        "own-check",
        "plugin",
        "gpus",
        "plan",
        "cluster",
        "convert",
        "fork",
        "github",
        "gate",
        "faults",
        "troubleshooting",
        "cache",
        "old-guide",
        "terminal",
        "viewers",
    )
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(?:\$ )?((?:[A-Z_]+=\S+ )*(?:python3? |nox |pip |plumbline|\. |git |jq |npm |export ).*)$")


def blocks(page: Path, language: str | None = None) -> list[str]:
    """The blocks of code of a page, those of one language if it is given; `""` has those without one."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [text for of, text in found if language is None or of == language]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command in a page's blocks without a language, variables in front and comments behind left out."""
    for block in blocks(page, ""):
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            if found := _PROMPT.match(line):
                for part in found[1].split(" && "):
                    words = shlex.split(part, comments=True)
                    yield [word for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word) or index > 1]


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the table whose first heading is this one, without its heading."""
    found = re.search(
        rf"^\| {re.escape(heading)} \|.*\n\|[-| ]+\|\n((?:\|.*\n)*)", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found is not None, f"{page.name} has no table that begins with {heading}"
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[1].splitlines()]


def unwrapped(text: str) -> str:
    """The text with every run of white space as one space: blocks are wrapped by hand."""
    return " ".join(text.split())


def sentences(page: Path) -> Iterator[str]:
    """The sentences of a page outside of code, tables and headings."""
    text = re.sub(r"^(```|~~~).*?^\1$", "\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?:\||#|!).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(?:[-*]|\d+\.) ", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "`code`", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for paragraph in re.split(r"\n\s*\n", text):
        yield from (one for one in re.split(r"(?<=[.!?:])\s+", unwrapped(paragraph)) if one)
