"""Every failing check, for a reader without scripts."""

from __future__ import annotations

from ci.junit import Check
from ci.page.run import OPEN, Run, labels
from ci.page.text import GLYPHS, WORDS, said, text

MOST_LISTED = 200
"""Failing checks that the list holds."""
_LONGEST = 600


def listed(run: Run) -> str:
    """As far as a page without scripts can hold them."""
    named = zip(run.suites, labels(run.suites), strict=True)
    found = [(name, check) for suite, name in named for check in suite.checks if check.status in OPEN]
    if not found:
        return "<p>No check fails.</p>"
    rows = "".join(_row(name, check) for name, check in found[:MOST_LISTED])
    more = f"<p>{len(found) - MOST_LISTED:,} more are in the JUnit files.</p>" if len(found) > MOST_LISTED else ""
    return (
        '<table><caption>Failing checks</caption><thead><tr><th scope="col">Status</th><th scope="col">Layout</th>'
        f'<th scope="col">Check</th><th scope="col">What is wrong</th></tr></thead><tbody>{rows}</tbody></table>{more}'
    )


def _row(name: str, check: Check) -> str:
    return (
        f"<tr><td>{GLYPHS[check.status]} {WORDS[check.status]}</td><td>{text(name)}</td>"
        f"<td>{text(check.name)}</td><td>{text(said(check)[:_LONGEST])}</td></tr>"
    )
