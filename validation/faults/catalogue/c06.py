"""Each context-parallel rank takes the mean over its own tokens.

Right where all have as many tokens that count; the batch's masks are uneven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="each context-parallel rank takes the mean over its own tokens",
    sources=(f"{CORE}/issues/7452",),
    first="probe_gradients/token_loss",
    kind="backward",
    layouts=("cp2+mean",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def add(self: Any, losses: Any, mask: Any) -> Any:
            total, _, rest = sound(self, losses, mask)
            return total, mask.sum().int() * case.layout.cp, rest

        return add

    replace("validation.candidate.step", "Losses.add", made)
