"""Text out of results, made harmless for where it is shown: logs, Markdown, annotations.

A pull request's code writes the results, and with them every name in them. The runner obeys a line of the log that begins with
`::`, and `##[` anywhere in one; Markdown obeys nearly any punctuation.
"""

from __future__ import annotations

import re

LONGEST = 300
"""Characters of one text that are shown."""
_KEPT = frozenset(" ,;=+-/%")


def plain(text: str, longest: int = LONGEST) -> str:
    """One line of printable characters that no runner takes for a command."""
    words = " ".join(text[: 4 * longest].split())
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
    shown = shown.replace("##[", "# #[")
    shown = f": :{shown[2:]}" if shown.startswith("::") else shown
    return shown if len(shown) <= longest and len(text) <= 4 * longest else f"{shown[: longest - 1]}…"


def markdown(text: str, longest: int = LONGEST) -> str:
    """As code in Markdown, in which nothing is markup, a link, or a mention, in table cells, too."""
    return f"<code>{entities(plain(text, longest))}</code>"


def prose(text: str, longest: int = LONGEST) -> str:
    """As words in Markdown that GitHub sends to people: nothing is markup, and nobody and no issue is mentioned.

    GitHub looks for @NAME, #1 and GH-1 when all entities have become characters again. A space of no width stands between.
    """
    said = entities(plain(text, longest)).replace("&#64;", "&#64;&#8203;").replace("&#35;", "&#35;&#8203;")
    return re.sub("(?i)gh-", lambda found: f"{found[0][:2]}&#8203;-", said)


def entities(text: str) -> str:
    """Every character that Markdown or HTML could take for more than itself, as a number."""
    return "".join(letter if letter.isalnum() or letter in _KEPT else f"&#{ord(letter)};" for letter in text)


def block(text: str, language: str = "sh") -> str:
    """Lines of code in Markdown: a fence that is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"


def annotation(level: str, title: str, message: str) -> str:
    """A workflow command that shows a message beside the files of a pull request."""
    return f"::{level} title={_property(plain(title, 120))}::{_data(plain(message))}"


def _data(text: str) -> str:
    """The runner also reads %0A and %0D, as line ends, of which `plain` has left none."""
    return text.replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
