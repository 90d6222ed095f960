"""The heat map of a step summary: a row a testsuite, a column a component, how near to its limit the worst check is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ci.drift import ratio
from ci.escape import markdown
from ci.expected import Expected
from ci.junit import Check, Suite
from validation.case.arrangement import short
from validation.case.plural import many

BLOCKS = "▁▂▃▄▅▆▇█"
STEPS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0)
"""Of the limit: the first block is below the first of them, the last one above the limit."""
_SCALE = " ".join(f"{block} up to {step:g}" for block, step in zip(BLOCKS, STEPS, strict=False))
LEGEND = (
    f"Worst ratio of error to limit: {_SCALE} {BLOCKS[-1]} above; = equal to the bit, or nothing to measure; "
    "✗ failed, ? not decided, – not evaluated, ◆ known upstream bug, with their numbers.\n"
)
MOST_ROWS = 100
_MARKS = {"fail": "✗", "error": "?", "unevaluated": "–", "known": "◆"}


def table(suites: Sequence[tuple[Expected, Suite]]) -> str:
    """The whole of it, the red rows first where there are more than are shown."""
    columns = list(dict.fromkeys(component(check) for _, suite in suites for check in suite.checks))[:30]
    rows = sorted(suites, key=lambda pair: all(check.status in ("pass", "known") for check in pair[1].checks))
    lines = [f"| testsuite | {' | '.join(markdown(column, 40) for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for expected, suite in rows[:MOST_ROWS]:
        lines.append(f"| {markdown(title(expected), 120)} | {' | '.join(_cell(suite, column) for column in columns)} |")
    cut = (
        [f"\n{many(len(rows) - MOST_ROWS, 'more testsuite is', 'more testsuites are')} left out."]
        if len(rows) > MOST_ROWS
        else []
    )
    return "\n".join([*lines, *cut, "", LEGEND])


def title(expected: Expected) -> str:
    """Session and layout; the self-test by its name."""
    said = expected.properties
    named = {**said, "arrangement": short(said.get("arrangement", "?"))}
    case = " / ".join(named.get(name, "?") for name in ("preset", "arrangement", "precision", "implementation", "transport"))
    case += " / isolated" if said.get("isolated") == "True" else ""
    return f"{expected.session}: {case}" if expected.ranks and expected.session else case if expected.ranks else expected.name


def component(check: Check) -> str:
    """What a check is about, in words."""
    return check.component.rpartition(".")[2].removeprefix("test_").replace("_", " ")


def _cell(suite: Suite, column: str) -> str:
    checks = [check for check in suite.checks if component(check) == column]
    if not checks:
        return ""
    counted = [(mark, sum(check.status == status for check in checks)) for status, mark in _MARKS.items()]
    marks = [f"{mark} {count}" for mark, count in counted if count]
    ratios = [found for check in checks if (found := ratio(check, failed=True)) is not None]
    worst = max(ratios, key=badness, default=None)
    shown = f"{block(worst)} {worst:.1g}" if worst is not None else "" if marks else "="
    return " ".join([*marks, shown]).strip()


def badness(found: float) -> float:
    """What ratios are sorted by: one that is no number compares with nothing, and is worse than any."""
    return math.inf if math.isnan(found) else found


def block(found: float) -> str:
    """The character for a ratio; NaN is above every limit."""
    return BLOCKS[sum(not found <= step for step in STEPS)]
