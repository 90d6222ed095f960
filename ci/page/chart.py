"""The error over the layers: of one component, the one that the diagnosis names or else the one nearest to its limits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ci.junit import Check, Suite
from ci.numbers import number
from ci.page.cause import first_failure
from ci.page.place import component, place, row_order
from ci.page.plot import Axis, Value, digits, dot, line, picture, power, words
from ci.page.run import Run, badness, labels
from ci.page.text import scrolled, text

MOST_CHECKS = 2000
_MOST_DOTS = 160
"""Points that are drawn as such; more would be a band."""
_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 36
_MOST_LABELS = 16


@dataclass(frozen=True)
class _Point:
    """A check and where it stands: 2.5 is the middle of layer 2."""

    at: float
    check: Check


@dataclass(frozen=True)
class _Series:
    """The checks of a component of a case that have an error and a limit, in one view, in the flow of data."""

    suite: Suite
    component: str
    view: str
    layers: tuple[int, ...]
    points: tuple[_Point, ...]


def chart(run: Run) -> str:
    """The section; nothing where no component has numbers in two layers."""
    found = next(filter(None, (_series(*one) for one in _candidates(run))), None)
    if found is None:
        return ""
    label = dict(zip((id(suite) for suite in run.suites), labels(run.suites), strict=True))[id(found.suite)]
    name = f"{component(found.component)} in {label}"
    floor = any(number(one.check, "floor") for one in found.points)
    against = "floor" if floor else "limit"
    said = f"{name} ({found.view}): the relative error of each check in the flow of data, and its {against}. "
    said += "What is equal to the bit is at the bottom."
    return (
        '<section aria-labelledby="chart"><h2 id="chart">Error over the layers</h2>'
        f'<p class="quiet">{text(said)}</p><div class="scroll plots">{_drawn(found, name, against)}</div>'
        f'<ul class="legend" aria-label="Lines"><li><span class="key error-line"></span> relative error</li>'
        f'<li><span class="key limit-line"></span> {against}</li></ul>{_numbers(found, against)}</section>'
    )


def _candidates(run: Run) -> Iterator[tuple[Suite, str, str]]:
    """Case, component and title of a check to begin with, the most telling first."""
    first = run.diagnosis.first if run.diagnosis else None
    if first is not None:
        yield from ((suite, first.component, first.name) for suite in run.cases if suite.name == first.suite)
    for suite in run.cases:
        if (check := first_failure(suite)) is not None:
            yield suite, check.component, check.name
    measured = [(badness(check), suite, check) for suite in run.cases for check in suite.checks if _shown(check)]
    best: dict[tuple[str, str], tuple[tuple[int, float], Suite, Check]] = {}
    for bad, suite, check in measured:
        key = (suite.name, check.component)
        if key not in best or bad > best[key][0]:
            best[key] = (bad, suite, check)
    yield from (
        (suite, check.component, check.name) for _, suite, check in sorted(best.values(), key=lambda one: one[0], reverse=True)
    )


def _shown(check: Check) -> bool:
    """Whether it has an error and a limit that a picture can show: equality to the bit has none."""
    return bool(number(check, "tolerance")) and number(check, "rel_error") is not None


def _series(suite: Suite, part: str, title: str) -> _Series | None:
    """The series that a check belongs to; None for one of fewer than two layers."""
    start = place(title)
    if start is None:
        return None
    layers: dict[int, list[tuple[int, Check]]] = defaultdict(list)
    for check in suite.checks:
        where = place(check.name) if check.component == part and _shown(check) else None
        if where is not None and where.view == start.view and where.column.isdecimal():
            layers[int(where.column)].append((row_order(where.row), check))
    points = [
        _Point(layer + number / len(checks), check)
        for layer, checks in sorted(layers.items())
        for number, (_, check) in enumerate(sorted(checks, key=lambda one: one[0]))
    ]
    found = _Series(suite, part, start.view, tuple(sorted(layers)), tuple(points[:MOST_CHECKS]))
    return found if len(layers) > 1 else None


def _limit(check: Check) -> Value:
    """The floor where there is one, else the limit."""
    return number(check, "floor") or number(check, "tolerance")


def _drawn(found: _Series, name: str, against: str) -> str:
    errors = [number(one.check, "rel_error") for one in found.points]
    limits = [_limit(one.check) for one in found.points]
    axis = Axis.of([*errors, *limits], _HEIGHT - _BOTTOM, _TOP)
    first, last = found.layers[0], found.layers[-1] + 1
    xs = [_across(one.at, first, last) for one in found.points]
    parts = [_tick(axis, exponent) for exponent in axis.ticks] + list(_layers(found.layers, first, last))
    parts += [line("limit-line", xs, limits, axis), line("error-line", xs, errors, axis)]
    if len(xs) <= _MOST_DOTS:
        shown = zip(xs, found.points, errors, limits, strict=True)
        parts += [_dot(x, axis, one.check, error, limit, against) for x, one, error, limit in shown]
    says = f"{name}: relative error from {digits(errors[0])} in layer {first} to {digits(errors[-1])} in layer {last - 1}; "
    return picture(_WIDTH, _HEIGHT, f"{says}{against} from {digits(limits[0])} to {digits(limits[-1])}", *parts)


def _across(at: float, first: int, last: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (at - first) / (last - first)


def _layers(layers: tuple[int, ...], first: int, last: int) -> Iterator[str]:
    """A line where a layer begins, and its number, as far as there is room."""
    every = -(-len(layers) // _MOST_LABELS)
    for layer in layers[::every]:
        x = _across(layer, first, last)
        yield f'<path class="grid-line" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
        yield words(_across(layer + 0.5, first, last), _HEIGHT - _BOTTOM + 16, str(layer))
    yield words((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "layer")


def _dot(x: float, axis: Axis, check: Check, error: Value, limit: Value, against: str) -> str:
    said = f"{check.name}: {digits(error)}, {against} {digits(limit)}"
    return "" if error is None else dot(f"dot {check.status}", x, axis.at(error), said)


def _tick(axis: Axis, exponent: int) -> str:
    y = axis.at(10.0**exponent)
    return f'<path class="grid-line" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>{words(_LEFT - 6, y + 4, power(exponent), "end")}'


def _numbers(found: _Series, against: str) -> str:
    """The same as a table."""
    rows = "".join(
        f'<tr><th scope="row">{text(one.check.name)}</th><td>{digits(number(one.check, "rel_error"))}</td>'
        f"<td>{digits(_limit(one.check))}</td></tr>"
        for one in found.points
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Check", "Relative error", against.capitalize()))
    table = f'<table class="plain-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f"<details><summary>Numbers</summary>{scrolled(table, 'Numbers of the picture')}</details>"
