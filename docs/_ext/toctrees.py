"""Toctrees out of plain lists of links, so that index pages read well on GitHub.

In `index.md` and `README.md` of any folder each list item or table row that begins with a link to a page puts this page into
the toctree, under the name that the link has. A heading begins another toctree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

_HEADING = re.compile(r"##+ (.+)")
_ENTRY = re.compile(r"(?:- |\| )\[([^\]]+)\]\(([^)#:]+\.md)\)")
_INDEX_PAGES = ("index", "README")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _add(app: Any, page: str, source: list[str]) -> None:
    if PurePosixPath(page).name in _INDEX_PAGES:
        source[0] += "".join(_toctree(caption, entries) for caption, entries in sections(source[0]).items() if entries)


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """Heading -> the links below it, each with its text and its target as it is written."""
    found: dict[str, list[tuple[str, str]]] = {"": []}
    caption = ""
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            caption = heading[1]
            found[caption] = []
        elif entry := _ENTRY.match(line):
            found[caption].append((entry[1], entry[2]))
    return found


def _toctree(caption: str, entries: list[tuple[str, str]]) -> str:
    def lines() -> Iterator[str]:
        yield "\n\n```{toctree}"
        yield ":hidden:"
        yield from ([f":caption: {caption}"] if caption else [])
        yield ""
        yield from (f"{text} <{target}>" for text, target in entries)
        yield "```\n"

    return "\n".join(lines())
