"""The file: template, policy, style, script and data put together."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path
from string import Template

from ci.page import numbered
from ci.page.about import about, known, self_test
from ci.page.cause import cause
from ci.page.chart import chart
from ci.page.data import as_json
from ci.page.head import head
from ci.page.overview import overview
from ci.page.recipe import recipe
from ci.page.run import Run
from ci.page.text import GLYPHS
from ci.page.trend import trend
from ci.page.unscripted import listed

_HERE = Path(__file__).parent


def document(run: Run, title: str) -> str:
    """The whole file."""
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        policy=escape(_policy(style, script)),
        title=escape(title),
        verdict=run.verdict,
        glyph=GLYPHS[run.verdict],
        style=style,
        script=script,
        head=head(run, title),
        cause=cause(run),
        overview=overview(run),
        recipe=recipe(run),
        chart=chart(run),
        trend=trend(run.history),
        known=known(run),
        self_test=self_test(run),
        about=about(run),
        unscripted=listed(run),
        numbered=_quiet(numbered.said(sum(len(suite.checks) for suite in run.suites))),
        data=as_json(run),
    )


def _quiet(sentence: str) -> str:
    return f'<p class="quiet">{sentence}</p>\n' if sentence else ""


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere, and only this style and this script count: what a name smuggles in does nothing."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_digest(style)}",
            f"script-src {_digest(script)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
