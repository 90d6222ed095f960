"""Text out of results as HTML: escaped, with the words and marks of each status."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import quote

from ci.junit import Check

GLYPHS = {"pass": "✓", "known": "◆", "unevaluated": "–", "fail": "✗", "error": "?", "missing": "∅"}
"""What a status looks like where there is no colour. The script has the same."""
WORDS = {
    "pass": "pass",
    "known": "with a known upstream bug",
    "unevaluated": "not evaluated",
    "fail": "fail",
    "error": "not decided",
    "missing": "missing",
}
_LINK = re.compile(r"https://[^\s<>\"'`()\[\]{}]+[^\s<>\"'`()\[\]{}.,;:!?]")


def text(words: str) -> str:
    """Escaped, and set apart: a name with right-to-left characters does not turn round what stands beside it."""
    return f"<bdi>{escape(words)}</bdi>"


def linked(words: str) -> str:
    """Escaped, with links where the text has https addresses."""
    parts, end = [], 0
    for found in _LINK.finditer(words):
        parts += [escape(words[end : found.start()]), link(found[0], found[0])]
        end = found.end()
    return f"<bdi>{''.join(parts)}{escape(words[end:])}</bdi>"


def link(address: str, words: str) -> str:
    """A link to an address of ours, or to one that begins with https."""
    return f'<a href="{escape(address)}" rel="noopener noreferrer">{escape(words)}</a>'


def command(lines: str) -> str:
    """A command that the script puts a button beside, which copies it. Lines are not broken, so that each stays one."""
    several = ' class="lines" tabindex="0" role="group" aria-label="Commands"' if "\n" in lines else ""
    return f'<p class="command"><code{several}>{escape(lines)}</code></p>'


def scrolled(content: str, name: str) -> str:
    """A box that scrolls where it is too wide, by the keyboard, too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">{content}</div>'


def glyph(status: str) -> str:
    """The mark of whatever is not a pass, with its word for who does not see it."""
    return "" if status == "pass" else f'<i role="img" aria-label="{WORDS[status]}">{GLYPHS[status]}</i>'


def badge(status: str) -> str:
    """The mark and the word of a status."""
    return f'<span class="badge {status}">{GLYPHS[status]} {WORDS[status]}</span>'


def said(check: Check) -> str:
    """What is wrong: a check's message without its name."""
    return check.message.removeprefix(f"{check.status.upper()}: {check.name} - ")


def anchor(suite: str, check: str) -> str:
    """The part of a link behind `#` that opens a check."""
    return f"{quote(suite, safe='')}/{quote(check, safe='')}"
