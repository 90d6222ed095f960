"""The numbers of a check, as results have them, and whether all of them can be true of one tensor."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from ci.junit import Check
from validation.case.plural import many

_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?|-?inf|nan")
_WHOLE_NUMBERS = re.compile(r"[0-9]{1,15}(, ?[0-9]{1,15})*")
FLOORS = 2.0
"""How many floors a limit is that rounding decides (validation/compare/limits.py)."""
_IN_WORDS = re.compile(r"Max diff: ([^ ,;]+), Avg diff: ([^ ,;]+)")
_ROUNDED = 1e-6
"""By how much, relatively, sums over a tensor may be off from each other: they are taken in another order."""
_SQUARES_TO_ZERO = 1e-100
"""The square of a smaller difference may be zero in float64."""


def number(check: Check, name: str) -> float | None:
    """A property as a number: None where there is none, NaN where it is something else."""
    said = check.properties.get(name)
    if said is None:
        return None
    return float(said) if _NUMBER.fullmatch(said) else math.nan


def contradictions(check: Check, ranks: int, precision: str) -> Iterator[str]:
    """Why the numbers of a check that has compared a tensor cannot all be true, by `ranks` ranks in this precision."""
    wanted = ["max_diff", "avg_diff", "elements", "worst_rank"]
    if precision == "fp32" and "floor" in check.properties:
        wanted.append("max_tolerance")
    for name in wanted:
        value = number(check, name)
        if value is None or not 0 <= value < math.inf:
            yield f"{name} {check.properties.get(name, 'is missing')}"
            return
    for rule in _RULES:
        yield from rule(check)
    yield from _ranks(check, ranks)


def _of(check: Check, *names: str) -> list[float]:
    """Those that are not there are NaN, of which no comparison holds."""
    return [math.nan if (value := number(check, name)) is None else value for name in names]


def _average(check: Check) -> Iterator[str]:
    """It lies between the largest difference and that of a tensor in which no other element differs."""
    largest, average, elements = _of(check, "max_diff", "avg_diff", "elements")
    if average > largest * (1 + _ROUNDED):
        yield f"avg_diff {average:g} is above max_diff {largest:g}"
    if largest > average * elements * (1 + _ROUNDED):
        yield f"max_diff {largest:g} is more than {many(elements, 'element', spec='g')} with avg_diff {average:g} can have"


def _error(check: Check) -> Iterator[str]:
    """There is one if and only if some element differs."""
    largest, error = _of(check, "max_diff", "rel_error")
    if (error == 0 and largest > _SQUARES_TO_ZERO) or (error > 0 and largest == 0):
        yield f"max_diff {largest:g} and rel_error {error:g}"


def _projection(check: Check) -> Iterator[str]:
    """<d, r> / <r, r> is at most ||d|| / ||r||. Without an error the reference may be zero, and there is none."""
    projection, error = _of(check, "projection", "rel_error")
    if "projection" in check.properties and error > 0 and not abs(projection - 1) <= error * (1 + _ROUNDED) + 1e-9:
        yield f"projection {projection:g} and rel_error {error:g}"


def _floor(check: Check) -> Iterator[str]:
    """The error is so many floors, and the limit always the same number of them."""
    floor, ratio, error, limit = _of(check, "floor", "ratio", "rel_error", "tolerance")
    if not {"floor", "ratio"} & set(check.properties):
        return
    if not math.isclose(limit, FLOORS * floor, rel_tol=_ROUNDED):
        yield f"tolerance {limit:g} is not {FLOORS:g} times floor {floor:g}"
    if not math.isclose(error, ratio * floor, rel_tol=_ROUNDED):
        yield f"rel_error {error:g} is not ratio {ratio:g} times floor {floor:g}"


def _largest(check: Check) -> Iterator[str]:
    largest, limit = _of(check, "max_diff", "max_tolerance")
    if "max_tolerance" in check.properties and check.status == "pass" and not largest <= limit:
        yield f"max_diff {largest:g} is above max_tolerance {limit:g}"


def _place(check: Check) -> Iterator[str]:
    """Each index is below the size of its dimension, and the sizes make the number of elements."""
    said = check.properties.get("worst_index", "[]")
    inner = said[1:-1]
    if said != f"[{inner}]" or not (inner == "" or _WHOLE_NUMBERS.fullmatch(inner)):
        yield f"worst_index {said}"
        return
    (elements,) = _of(check, "elements")
    if math.prod(int(index) + 1 for index in inner.split(",") if inner) > elements:
        yield f"worst_index {said} of {many(elements, 'element', spec='g')}"


def _ranks(check: Check, ranks: int) -> Iterator[str]:
    """Those that hold a part are ranks of the layout, each once, and the worst is one of them."""
    said, worst = check.properties.get("ranks", ""), check.properties["worst_rank"]
    held = [int(rank) for rank in said.split(",")] if _WHOLE_NUMBERS.fullmatch(said) else []
    if not held or held != sorted(set(held)) or held[-1] >= ranks:
        yield f"ranks {said or 'is missing'} of {ranks}"
    elif worst not in said.split(","):
        yield f"worst_rank {worst} of ranks {said}"


def _text(check: Check) -> Iterator[str]:
    """The line that viewers show has the same numbers, in three digits or six decimals."""
    found = _IN_WORDS.search(check.details.partition("\n")[0])
    for name, said in zip(("max_diff", "avg_diff"), found.groups() if found else (), strict=False):
        (value,) = _of(check, name)
        if not (
            _NUMBER.fullmatch(said) and math.isclose(float(said), value, rel_tol=0.01, abs_tol=1e-6 if value >= 1e-4 else 0)
        ):
            yield f"{name} {value:g}, and {said} in its text"


_RULES: tuple[Callable[[Check], Iterator[str]], ...] = (_average, _error, _projection, _floor, _largest, _place, _text)
