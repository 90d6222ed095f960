"""Padding counts in the balancing loss.

The model is not told what is padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="padding counts in the balancing loss",
    sources=(f"{CORE}/pull/4776",),
    first="layers.{moe}.moe.balancing",
    cause="option +padded, option +aux",
    needs="+padded +aux",
    layouts=("single+padded+mean+aux",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def called(case: Case, model: Any, given: dict[str, Any]) -> Any:
            return sound(case, model, {name: tensor for name, tensor in given.items() if name != "padding"})

        return called

    replace("validation.candidate.step", "called", made)
