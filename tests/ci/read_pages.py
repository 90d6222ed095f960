"""Pages, read as a browser reads them, and what they are made of."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from ci.junit import Suite
from ci.page.document import document
from ci.page.run import judged
from ci.table import rows
from tests.ci.runs import check, suite

LAYOUTS = next(row for row in rows() if row.session == "parity").layouts

HOSTILE = {
    "end of the script": "</script><script>hacked=1</script>",
    "end of the script with a space": "</script ><script >hacked=1</script >",
    "end of the script with more": "</script/x><script/x>hacked=1",
    "end of the script without its bracket": "</script ",
    "comment in the script": "<!--<script>",
    "comment and an open tag": "<!-- <script ",
    "end of the style": "</style></noscript></title><script>hacked=1</script>",
    "handler": '"><img src=x onerror=hacked=1><svg/onload=hacked=1>',
    "attribute": "' onfocus='hacked=1' autofocus='",
    "script address": "javascript:hacked=1 [a](javascript:hacked=1)",
    "data address": "data:text/html,<script>hacked=1</script>",
    "template": "$data ${policy} {{constructor.constructor('hacked=1')()}}",
    "line separators": "a\u2028b\u2029c",
    "right to left": "\u202egnp.exe\u202c <b>",
    "prototype": "__proto__",
    "address with markup": 'https://example.com/"onmouseover="hacked=1',
    "long": "x" * 100_000,
    "many digits": f"Layer {'9' * 5000} Attention Output",
}


class Read(HTMLParser):
    """What a browser would see: elements, and what stands in scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep it."""
        self.elements.append((tag, dict(attrs)))
        self._in = tag if tag in self.inside else ""
        if self._in:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        """What follows is text again."""
        self._in = ""

    def handle_data(self, data: str) -> None:
        """Text, or what is in a script."""
        if self._in:
            self.inside[self._in][-1] += data
        else:
            self.words.append(data)

    @property
    def data(self) -> Any:
        """What the script is given."""
        return json.loads(self.inside["script"][0])

    @property
    def text(self) -> str:
        """All that is not a script."""
        return " ".join(" ".join(self.words).split())

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


def page(*suites: Suite, title: str = "Plumbline") -> Read:
    return Read(document(judged(suites), title))


def everywhere(text: str) -> Suite:
    """A suite that has the text in every place that results can fill."""
    one = check(text, "fail", text, note=text, wrong=text, reproduce=text, worst_index=text, ranks=text, max_diff=text)
    known = check("Loss", "known")
    bug = replace(known, message=f"KNOWN: known upstream bug: {text}", details=text)
    found = suite(checks=(replace(one, message=text, details=text), bug))
    return Suite(text, found.checks, dict.fromkeys([*found.properties, text], text), 1.0, text)


def planted(seen: str, unseen: str = "") -> Suite:
    """A self-test with a planted defect that was seen, and one that was not."""
    checks = [check(f"Planted defect seen: {seen}", component="self_test")]
    checks += [check(f"Planted defect seen: {unseen}", "fail", "self_test")] if unseen else []
    return replace(suite(checks=tuple(checks)), name="self-test-tiny-tp2-fp64-local-gloo")


LONGEST = 300.0
"""Seconds in which a browser does anything that it is asked for, on a machine with much else to do."""


def wait_until(page: Any, predicate: str, argument: Any = None) -> None:
    """Ask a browser's page again and again.

    Playwright's own wait evaluates a text in the page from its second look on, which a page that forbids `eval` refuses.
    """
    end = time.monotonic() + LONGEST
    while not page.evaluate(predicate, argument):
        assert time.monotonic() < end, f"never true: {predicate}"
        page.wait_for_timeout(20)
