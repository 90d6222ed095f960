"""The ratios of each component over the runs, a line each."""

from __future__ import annotations

import math

from ci.page.history import History, Kind
from ci.page.place import component_order
from ci.page.plot import Axis, Value, digits, dot, line, picture
from ci.page.text import scrolled, text
from validation.case.plural import many

MOST_ROWS = 60
_WIDTH, _HEIGHT, _EDGE = 180, 34, 5
_SPAN = 0.5
"""Powers of ten above and below that a line has at least: rounding alone moves a ratio by a part of that."""
_TELLING = 2.0
"""A ratio that grew by less than this is called as before, as drift has it (ci/drift.py)."""


def trend(of: History) -> str:
    """The section; nothing where no earlier run is known."""
    if len(of.points) < 2:
        return _unread(of) and f"<section>{_unread(of)}</section>"
    kinds = sorted(of.points[-1].ratios, key=lambda kind: (component_order(kind[0]), kind[1]))[:MOST_ROWS]
    several = len({precision for _, precision in kinds}) > 1
    rows = "".join(_row(of, kind, several) for kind in kinds)
    begin, end = of.points[0].when, of.points[-1].when
    said = f"{many(len(of.points), 'run')} from {begin.replace('T', ' ')} to {end.replace('T', ' ')}, this one on the right. "
    said += "Shown is the error of the check nearest to its limit, as a part of that limit, on a logarithmic scale."
    heads = ("Component", "Trend", "First", "Now", "Change")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f'<table class="plain-table trends"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        '<section aria-labelledby="history"><h2 id="history">History</h2>'
        f'<p class="quiet">{text(said)}</p>{scrolled(table, "Trends")}{_unread(of)}</section>'
    )


def _unread(of: History) -> str:
    if not of.unread:
        return ""
    said = f"{many(len(of.unread), 'file', spec=',')} of earlier runs could not be read"
    return f'<p class="quiet">{said}; the first: {text(of.unread[0])}</p>'


def _row(of: History, kind: Kind, several: bool) -> str:
    values: list[Value] = [point.ratios.get(kind) for point in of.points]
    known = [value for value in values if value is not None]
    name = f"{kind[0]} {kind[1]}" if several else kind[0]
    change = _change(known[0], known[-1]) if len(known) > 1 else "new"
    drawn = _sparkline(of, values, f"{name}: {digits(known[0])} to {digits(known[-1])}")
    return (
        f'<tr><th scope="row">{text(name)}</th><td>{drawn}</td>'
        f'<td class="number">{digits(known[0])}</td><td class="number">{digits(known[-1])}</td><td>{change}</td></tr>'
    )


def _change(then: float, now: float) -> str:
    if then == now:
        return "the same"
    if not (0 < then < math.inf and 0 < now < math.inf):
        return "larger" if now > then else "smaller"
    if now > then:
        return f"{now / then:.1f} times" if now >= _TELLING * then else "about the same"
    return f"1/{then / now:.1f}" if then >= _TELLING * now else "about the same"


def _sparkline(of: History, values: list[Value], says: str) -> str:
    shown = [math.log10(value) for value in values if value and 0 < value < math.inf] or [0.0]
    middle = (min(shown) + max(shown)) / 2
    half = max(_SPAN, (max(shown) - min(shown)) / 2)
    axis = Axis(middle - half, middle + half, _HEIGHT - _EDGE, _EDGE)
    wide = (_WIDTH - 2 * _EDGE) / (len(values) - 1)
    xs = [_EDGE + wide * number for number in range(len(values))]
    dots = [
        dot(
            "dot now" if number == len(values) - 1 else "dot then",
            xs[number],
            axis.at(value),
            f"{point.when.replace('T', ' ')}: {digits(value)}",
        )
        for number, (point, value) in enumerate(zip(of.points, values, strict=True))
        if value is not None
    ]
    return picture(_WIDTH, _HEIGHT, says, line("error-line", xs, values, axis), *dots)
