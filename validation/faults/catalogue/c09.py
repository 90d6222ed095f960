"""The causal mask takes positions for contiguous."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="the causal mask takes positions for contiguous",
    sources=(f"{CORE}/commit/d30e165203",),
    first="layers.0.attention.core",
    layouts=("cp2",),
    absent=(("te", "which positions a rank holds is decided within Transformer Engine's attention"),),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., list[int]]) -> Callable[..., list[int]]:
        return lambda length, ranks, rank, *_: list(range(length // ranks * rank, length // ranks * (rank + 1)))

    replace("validation.candidate.modules", "positions", made)
