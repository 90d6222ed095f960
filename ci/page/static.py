"""What of the page can be read without a script: verdict, layouts, failures. Everything from results is escaped."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from ci.junit import Check, Suite
from ci.page.data import facts
from ci.page.place import component, component_order
from ci.page.run import OPEN, STATUSES, Run, badness, labels, level, measure, short

GLYPHS = {"pass": "✓", "known": "◆", "unevaluated": "–", "fail": "✗", "error": "?", "missing": "∅"}
"""What a status looks like where there is no colour. The script has the same."""
WORDS = {
    "pass": "pass",
    "known": "known upstream bugs",
    "unevaluated": "not evaluated",
    "fail": "fail",
    "error": "not decided",
    "missing": "missing",
}
_COUNTED = ("pass", "known", "fail", "error", "missing", "unevaluated")
MOST_REASONS = 30
MOST_LISTED = 200
"""Failing checks that are listed for a reader without scripts."""
_MOMENT = len("2026-01-31T12:00:00")
"""Of what a run is called (ci/run.py): when it began."""
_FACTS = {
    "commit": "Commit",
    "megatron-core": "megatron-core",
    "transformers": "transformers",
    "torch": "PyTorch",
    "transformer-engine": "Transformer Engine",
    "python": "Python",
    "preset": "Preset",
    "precision": "Precision",
    "implementation": "Implementation",
    "transport": "Transport",
    "seed": "Seed",
    "gpu": "GPU",
    "driver": "Driver",
    "cpu": "CPU",
}
_LINK = re.compile(r"https://[^\s<>\"'`()\[\]{}]+[^\s<>\"'`()\[\]{}.,;:!?]")


def head(run: Run, title: str) -> str:
    """Verdict, counts, reasons, and what ran."""
    layouts = len(run.suites)
    counts = run.counts
    said = {"pass": "Pass", "fail": "Fail", "error": "Not decided"}[run.verdict]
    glyph = GLYPHS[run.verdict]
    total = f"{sum(counts.values()):,} checks in {layouts} {'case' if layouts == 1 else 'cases'}"
    listed = "".join(
        f'<li class="count {status}"><span class="glyph" aria-hidden="true">{GLYPHS[status]}</span> '
        f"<b>{counts[status]:,}</b> {WORDS[status]}</li>"
        for status in _COUNTED
        if counts[status] or status in ("pass", "fail")
    )
    reasons = "".join(f"<li>{_linked(reason)}</li>" for reason in run.reasons[:MOST_REASONS])
    if len(run.reasons) > MOST_REASONS:
        reasons += f"<li>and {len(run.reasons) - MOST_REASONS:,} more, which the gate's log has</li>"
    return (
        f'<h1><span class="verdict {run.verdict}"><span aria-hidden="true">{glyph}</span> {said}</span> '
        f"<span>{escape(title)}: {total}</span></h1>"
        f'<ul class="counts" aria-label="Counts">{listed}</ul>'
        + (f'<ul class="reasons" aria-label="Why">{reasons}</ul>' if reasons else "")
        + (f'<p class="quiet">{_text(run.accepted)}</p>' if run.accepted else "")
        + _facts(run)
    )


def _facts(run: Run) -> str:
    """When, with what, and how to do the same."""
    found = facts(run)
    said = {words: found[name] for name, words in _FACTS.items() if found.get(name) not in (None, "", "absent")}
    if "Commit" in said:
        said["Commit"] = ", ".join(one[:12] for one in said["Commit"].split(", ")) + (
            " with changes" if found.get("dirty") == "true" else ""
        )
    when = sorted(suite.timestamp for suite in run.suites if suite.timestamp)
    if when:
        said["Finished"] = when[-1].replace("T", " ")
    begun = sorted({suite.run for suite in run.suites} - {""})
    if len(begun) > 1:
        said["Runs"] = f"{len(begun)}, from {begun[0][:_MOMENT]} to {begun[-1][:_MOMENT]}"
    said["Time of all cases"] = f"{sum(suite.seconds for suite in run.suites):,.1f} s"
    listed = "".join(f"<div><dt>{words}</dt><dd>{_text(value)}</dd></div>" for words, value in said.items())
    commands = dict.fromkeys(suite.properties.get("command", "") for suite in run.suites)
    shown = "".join(_command(command) for command in commands if command)
    return f'<dl class="facts">{listed}</dl>{shown}'


def _command(command: str) -> str:
    return f'<p class="command"><code>{escape(command)}</code></p>'


def overview(run: Run) -> str:
    """Layouts × components: the worst of each."""
    parts = sorted({component(check.component) for suite in run.suites for check in suite.checks}, key=component_order)
    names = "".join(f'<th scope="col"><span>{escape(part)}</span></th>' for part in parts)
    named = enumerate(zip(run.suites, labels(run), strict=True))
    rows = "".join(_overview_row(suite, name, row, parts) for row, (suite, name) in named)
    return (
        '<table id="layouts" class="heat"><caption class="hidden">The worst check of each layout and component</caption>'
        f'<thead><tr><th scope="col">Layout</th>{names}<th scope="col" class="number">Checks</th>'
        f'<th scope="col" class="number">Time</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _overview_row(suite: Suite, name: str, row: int, parts: Sequence[str]) -> str:
    checks: dict[str, list[Check]] = defaultdict(list)
    for check in suite.checks:
        checks[component(check.component)].append(check)
    cells = "".join(_overview_cell(checks.get(part, []), f"{row}/{index}") for index, part in enumerate(parts))
    worst = max((check.status for check in suite.checks), key=STATUSES.index, default="error")
    return (
        f'<tr><th scope="row"><span class="glyph {worst}" role="img" aria-label="{WORDS[worst]}">{GLYPHS[worst]}</span> '
        f"{_text(name)}</th>{cells}"
        f'<td class="number">{len(suite.checks):,}</td><td class="number">{suite.seconds:.1f} s</td></tr>'
    )


def _overview_cell(checks: Sequence[Check], at: str) -> str:
    if not checks:
        return '<td class="none" aria-label="no checks"></td>'
    worst = max(checks, key=badness)
    bad = sum(check.status == worst.status for check in checks)
    counted = f"{bad} of {len(checks)} {WORDS[worst.status]}"
    says = f"{counted}; worst: {worst.name}, {measure(worst)}"
    return (
        f'<td data-at="{at}" class="cell {worst.status} l{level(worst)}" title="{escape(says)}">'
        f"{glyph(worst.status)}{escape(short(worst))}</td>"
    )


def glyph(status: str) -> str:
    """The mark of whatever is not a pass, with its word for who does not see it."""
    return "" if status == "pass" else f'<i role="img" aria-label="{WORDS[status]}">{GLYPHS[status]}</i>'


def first_failures(run: Run) -> str:
    """Of each case the failure nearest to its cause: the first in its file, whose checks stand in the flow of data."""
    named = zip(run.suites, labels(run), strict=True)
    found = [(suite, name, first) for suite, name in named if (first := _first(suite)) is not None]
    if not found:
        return ""
    found.sort(key=lambda one: -STATUSES.index(one[2].status))
    items = "".join(f"<li>{_failure(suite, name, check)}</li>" for suite, name, check in found)
    heading = '<h2 id="first">First failure of each layout</h2>'
    return f'<section aria-labelledby="first">{heading}<ol class="firsts">{items}</ol></section>'


def _first(suite: Suite) -> Check | None:
    failing = [check for check in suite.checks if check.status in OPEN]
    return min(failing, key=lambda check: check.status == "missing", default=None)


def _failure(suite: Suite, name: str, check: Check) -> str:
    said = check.message.removeprefix(f"{check.status.upper()}: {check.name} - ")
    if check.status == "missing":
        missing = sum(one.status == "missing" for one in suite.checks)
        said = f"{missing:,} of {len(suite.checks):,} checks are missing: the manifest demands them, and no result has them"
    how = check.properties.get("reproduce", "")
    return (
        f'<p><span class="badge {check.status}">{GLYPHS[check.status]} {WORDS[check.status]}</span> '
        f'<a href="#{anchor(suite.name, check.name)}">{_text(check.name)}</a> <span class="quiet">in {_text(name)}</span></p>'
        f'<p class="says">{_linked(said)}</p>'
    ) + (_command(how) if how else "")


def anchor(suite: str, check: str) -> str:
    """The part of a link behind `#` that opens a check."""
    return f"{_quoted(suite)}/{_quoted(check)}"


def _quoted(text: str) -> str:
    return quote(text, safe="")


def known(run: Run) -> str:
    """Each known upstream bug once, with how many checks it excuses."""
    found: dict[str, list[str]] = defaultdict(list)
    for suite, name in zip(run.suites, labels(run), strict=True):
        for check in suite.checks:
            if check.status == "known":
                _, _, bug = check.message.rpartition("known upstream bug: ")
                found[bug].append(name)
    if not found:
        return ""
    items = "".join(
        f'<li>{_linked(bug)} <span class="quiet">{len(where):,} checks in {escape(", ".join(dict.fromkeys(where)))}</span></li>'
        for bug, where in found.items()
    )
    return f'<section aria-labelledby="known"><h2 id="known">Known upstream bugs</h2><ul class="bugs">{items}</ul></section>'


def listed(run: Run) -> str:
    """Every failing check, as far as a page without scripts can hold them."""
    named = zip(run.suites, labels(run), strict=True)
    found = [(name, check) for suite, name in named for check in suite.checks if check.status in OPEN]
    if not found:
        return "<p>No check fails.</p>"
    rows = "".join(_listed_row(name, check) for name, check in found[:MOST_LISTED])
    more = f"<p>{len(found) - MOST_LISTED:,} more are in the JUnit files.</p>" if len(found) > MOST_LISTED else ""
    return (
        '<table><caption>Failing checks</caption><thead><tr><th scope="col">Status</th><th scope="col">Layout</th>'
        f'<th scope="col">Check</th><th scope="col">What is wrong</th></tr></thead><tbody>{rows}</tbody></table>{more}'
    )


def _listed_row(name: str, check: Check) -> str:
    said = check.message.removeprefix(f"{check.status.upper()}: {check.name} - ")
    return (
        f"<tr><td>{GLYPHS[check.status]} {WORDS[check.status]}</td><td>{_text(name)}</td>"
        f"<td>{_text(check.name)}</td><td>{_text(said[:600])}</td></tr>"
    )


def _text(text: str) -> str:
    """Escaped, and set apart: a name with right-to-left characters does not turn round what stands beside it."""
    return f"<bdi>{escape(text)}</bdi>"


def _linked(text: str) -> str:
    """Escaped, with links where the text has https addresses."""
    parts, end = [], 0
    for found in _LINK.finditer(text):
        address = escape(found[0])
        parts += [escape(text[end : found.start()]), f'<a href="{address}" rel="noopener noreferrer">{address}</a>']
        end = found.end()
    return f"<bdi>{''.join(parts)}{escape(text[end:])}</bdi>"
