"""The mean loss does not make up for the average over context-parallel ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="the mean loss does not make up for the average over context-parallel ranks",
    sources=(
        f"{CORE}/issues/673",
        f"{CORE}/commit/5946e24b37",
    ),
    first="probe_gradients/token_loss",
    kind="backward",
    layouts=("cp2+mean",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def add(self: Any, losses: Any, mask: Any) -> Any:
            total, *rest = sound(self, losses, mask)
            return total / case.layout.cp, *rest

        return add

    replace("validation.candidate.step", "Losses.add", made)
