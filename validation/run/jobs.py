"""How many cases run at the same time where nobody has said it."""

from __future__ import annotations

from collections.abc import Sequence

from validation.case.case import Case
from validation.case.memory import estimate
from validation.machine import available_memory, cores, visible_gpus
from validation.run import limits

_ON_CPU, _ON_SHARED_GPUS = ("tiny",), ("tiny", "mini")
"""Presets whose ranks wait for each other more than they work, so that a second case fills the time."""


def at_once(cases: Sequence[Case]) -> int:
    """Two, where cases, all of one preset, are small and two fit; else one. Ranks with a GPU each would have to share it."""
    first = cases[0]
    if limits.too_few_threads(cases, 2) is not None:
        return 1
    if first.on_cpu:
        return 2 if first.preset in _ON_CPU else 1
    return 2 if first.transport == "staged" and first.preset in _ON_SHARED_GPUS and _fitting(cases) >= 3 else 1


def overlapping(cases: Sequence[Case], jobs: int) -> bool:
    """Whether a case starts while the ranks of one that has all findings end: small ones on the CPU, if one more fits."""
    first = cases[0]
    return first.on_cpu and first.preset in _ON_CPU and limits.too_few_threads(cases, jobs + 1) is None


def held(cases: Sequence[Case], jobs: int) -> int:
    """Of how many cases ranks start while others run: of as many again, or twice as many, where small ones share GPUs and fit.

    To get ready takes longer than a small case. The second is begun with the first if each rank has a core, and if there is
    twice the memory for them, for those that end, and for a reference: what they are compared with comes on top.
    """
    first = cases[0]
    if first.transport != "staged" or first.preset not in _ON_SHARED_GPUS:
        return 0
    with_a_core, fitting = cores() // max(case.layout.ranks for case in cases), _fitting(cases)
    if with_a_core >= 3 * jobs and fitting >= 2 * (4 * jobs + 1) and limits.too_few_threads(cases, 4 * jobs) is None:
        return 2 * jobs
    return jobs if fitting > 2 * jobs and limits.too_few_threads(cases, 2 * jobs) is None else 0


def _fitting(cases: Sequence[Case]) -> int:
    """How often the largest fits. One of these is the reference of the next, which is computed meanwhile."""
    cards, memory = visible_gpus(), available_memory()
    if not cards:
        return 0
    needed = [estimate(case, len(cards)) for case in cases]
    on_card = min(card.free for card in cards) // max(one.card for one in needed)
    return on_card if memory is None else min(on_card, memory // max(one.host for one in needed))
