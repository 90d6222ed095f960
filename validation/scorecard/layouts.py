"""The eight cases that a fault is diagnosed from: those that show it, and those in which it must not show. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from validation.case import preflight
from validation.case.case import PRECISIONS, Case
from validation.case.errors import PlumblineError
from validation.case.layout import Layout
from validation.faults.fault import Fault

COUNT = 8
_USUAL = ("single", "tp2", "pp2", "cp2", "ep2", "dp2", "tp2ep2", "tp2pp2", "tp2cp2", "ep2etp2", "pp2ep2", "tp2dp2")
_MOST_RANKS = 4


SPARE = 4
"""Cases for those that have nothing to put a fault into: ranks of another stage, say."""


def diagnosed(fault: Fault) -> tuple[Case, ...]:
    """Its own layouts, these joined with stages and with experts spread, then the usual ones; and SPARE more at the end.

    With options of a step half of them have these, the others lack one, or all. In a lower precision half are in fp64; with
    options, too, a quarter is in fp64, and a quarter lacks one, or all.
    """
    lower = fault.precision != "fp64"
    options = any("+" in layout for layout in fault.layouts)
    half = COUNT // 2 if lower or options else COUNT
    with_all = list(islice(_cases(fault, _with_options(fault)), half + SPARE))
    others = (case for case in _cases(fault, _without_options(fault)) if case not in with_all) if options else iter(())
    higher = [replace(case, precision="fp64") for case in with_all[: half // 2 if options else half]] if lower else []
    return (*with_all[:half], *higher, *islice(others, COUNT - half - len(higher)), *with_all[half:])


def _cases(fault: Fault, arrangements: Iterator[str]) -> Iterator[Case]:
    """Those of a few ranks that can run, each once."""
    told = set()
    for arrangement in arrangements:
        try:
            case = fault.case(arrangement)
            preflight.check(case, max_ranks=_MOST_RANKS, gpus=0, memory=None)
        except PlumblineError:
            continue
        if case.arrangement not in told:
            told.add(case.arrangement)
            yield case


def _with_options(fault: Fault) -> Iterator[str]:
    yield from fault.layouts
    words = _words(fault.layouts[0])
    yield from (f"{layout}{words}" for layout in (*_joined(fault.layouts[0].partition("+")[0]), *_USUAL))


def _without_options(fault: Fault) -> Iterator[str]:
    layout, *words = fault.layouts[0].split("+")
    for left_out in words:
        yield "+".join((layout, *(word for word in words if word != left_out)))
    yield from (layout, *_joined(layout), *_USUAL)


def _joined(name: str) -> Iterator[str]:
    """A layout together with pipeline stages and with spread experts; with tensor parallelism where it has them already."""
    if name == "single":
        return
    layout = Layout.parse(name)
    yield (replace(layout, pp=2) if layout.pp == 1 else replace(layout, tp=2)).name
    yield (replace(layout, ep=2) if layout.ep == 1 else replace(layout, tp=2)).name


def _words(arrangement: str) -> str:
    _, plus, words = arrangement.partition("+")
    return plus + words


def has(case: Case, one: str) -> bool:
    """Whether a case has an option (`+full`), a precision, or more than one of what a degree counts."""
    if one.startswith("+"):
        return one.removeprefix("+") in case.arrangement.split("+")[1:]
    if one in PRECISIONS:
        return case.precision == one
    layout = case.layout
    degrees = {"etp": layout.expert_tp, "dp": layout.data_parallel}
    return bool(degrees.get(one, getattr(layout, one)) > 1)
