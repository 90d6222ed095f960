"""Layouts × components: the worst check of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape

from ci.junit import Check, Suite
from ci.page.place import component, component_order
from ci.page.run import STATUSES, Run, badness, labels, level, measure, short
from ci.page.text import GLYPHS, WORDS, glyph, text


def overview(run: Run) -> str:
    """The table. The script knows a cell by the numbers of its case and its component."""
    parts = sorted({component(check.component) for suite in run.suites for check in suite.checks}, key=component_order)
    shown = [(index, part) for index, part in enumerate(parts) if any(_has(suite, part) for suite in run.cases)]
    names = "".join(f'<th scope="col"><span>{escape(part)}</span></th>' for _, part in shown)
    named = sorted(enumerate(zip(run.cases, labels(run.cases), strict=True)), key=lambda one: -_worst(one[1][0]))
    rows = "".join(_row(suite, name, row, shown) for row, (suite, name) in named)
    return (
        '<table id="layouts" class="heat"><caption class="hidden">The worst check of each layout and component</caption>'
        f'<thead><tr><th scope="col">Layout</th>{names}<th scope="col" class="number">Checks</th>'
        f'<th scope="col" class="number">Time</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _worst(suite: Suite) -> int:
    """How bad the worst check is: the table begins with what is red."""
    return max((STATUSES.index(check.status) for check in suite.checks), default=STATUSES.index("error"))


def _has(suite: Suite, part: str) -> bool:
    return any(component(check.component) == part for check in suite.checks)


def _row(suite: Suite, name: str, row: int, parts: Sequence[tuple[int, str]]) -> str:
    checks: dict[str, list[Check]] = defaultdict(list)
    for check in suite.checks:
        checks[component(check.component)].append(check)
    cells = "".join(_cell(checks.get(part, []), f"{row}/{index}") for index, part in parts)
    worst = STATUSES[_worst(suite)]
    return (
        f'<tr><th scope="row"><span class="glyph {worst}" role="img" aria-label="{WORDS[worst]}">{GLYPHS[worst]}</span> '
        f"{text(name)}</th>{cells}"
        f'<td class="number">{len(suite.checks):,}</td><td class="number">{suite.seconds:.1f} s</td></tr>'
    )


def _cell(checks: Sequence[Check], at: str) -> str:
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
