"""The first lines of the page: the verdict, and how many checks have which status."""

from __future__ import annotations

from html import escape

from ci.page.recipe import recipes_in_short
from ci.page.run import STATUSES, Run
from ci.page.text import GLYPHS, WORDS, text
from validation.case.plural import many

_COUNTED = ("pass", "known", "fail", "error", "missing", "unevaluated")
_SAID = {"pass": "Pass", "fail": "Fail", "error": "Not decided"}


def head(run: Run, title: str) -> str:
    """Verdict and counts. The self-test is counted apart."""
    cases = len(run.cases)
    total = f"{many(sum(run.counts.values()), 'check', spec=',')} in {many(cases, 'case')}"
    return (
        f'<h1><span class="verdict {run.verdict}"><span aria-hidden="true">{GLYPHS[run.verdict]}</span> {_SAID[run.verdict]}'
        f"</span> <span>{escape(title)}: {total}</span></h1>"
        f'<ul class="counts" aria-label="Counts">{_counts(run)}</ul>'
        + recipes_in_short(run)
        + (f'<p class="quiet">{text(run.accepted)}</p>' if run.accepted else "")
    )


def _counts(run: Run) -> str:
    counts = run.counts
    shown = [status for status in _COUNTED if counts[status] or status in ("pass", "fail")]
    items = [_count(status, f"{counts[status]:,}", WORDS[status]) for status in shown]
    planted = [check.status for suite in run.self_tests for check in suite.checks]
    if unseen := [status for status in planted if status not in ("pass", "unevaluated")]:
        items.append(
            _count(
                max(unseen, key=STATUSES.index),
                f"{len(unseen):,}",
                f"of {many(len(planted), 'planted defect', spec=',')} not seen",
            )
        )
    if behind := planted.count("unevaluated"):
        items.append(_count("unevaluated", f"{behind:,}", f"of {many(len(planted), 'planted defect', spec=',')} not evaluated"))
    return "".join(items)


def _count(status: str, number: str, words: str) -> str:
    mark = f'<span class="glyph" aria-hidden="true">{GLYPHS[status]}</span>'
    return f'<li class="count {status}">{mark} <b>{number}</b> {words}</li>'
