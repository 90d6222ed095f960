"""How many cases run at the same time where nobody has said it."""

from __future__ import annotations

from collections.abc import Sequence

from validation.case.case import Case
from validation.case.memory import estimate
from validation.machine import available_memory, visible_gpus
from validation.run import limits

_ON_CPU, _ON_SHARED_GPUS = ("tiny",), ("tiny", "mini")
"""Presets whose ranks wait for each other more than they work, so that a second case fills the time."""


def at_once(cases: Sequence[Case]) -> int:
    """Two, where cases, all of one preset, are small and two fit; else one. Ranks with a GPU each would have to share it."""
    first = cases[0]
    if first.on_cpu:
        return 2 if first.preset in _ON_CPU and limits.too_few_threads(cases, 2) is None else 1
    return 2 if first.transport == "staged" and first.preset in _ON_SHARED_GPUS and _fit(cases, 3) else 1


def overlapping(cases: Sequence[Case], jobs: int) -> bool:
    """Whether a case starts while the ranks of one that has all findings end: small ones on the CPU, if one more fits."""
    first = cases[0]
    return first.on_cpu and first.preset in _ON_CPU and limits.too_few_threads(cases, jobs + 1) is None


def held(cases: Sequence[Case], jobs: int) -> bool:
    """Whether ranks start while the case before theirs runs: where they share GPUs, cases are small, and as many again fit."""
    first = cases[0]
    return first.transport == "staged" and first.preset in _ON_SHARED_GPUS and _fit(cases, 2 * jobs + 1)


def _fit(cases: Sequence[Case], times: int) -> bool:
    """So many times what the largest takes. One of them is the reference of the next, which is computed meanwhile."""
    cards, memory = visible_gpus(), available_memory()
    if not cards:
        return False
    needed = [estimate(case, len(cards)) for case in cases]
    on_card = times * max(one.card for one in needed) <= min(card.free for card in cards)
    return on_card and (memory is None or times * max(one.host for one in needed) <= memory)
