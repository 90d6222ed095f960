"""The router's logits are rounded to bfloat16.

They are in float32, as they were asked for. That rounds less than inputs in bfloat16 do: limits of twice the floor allow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the router's logits are rounded to bfloat16",
    sources=(f"{CORE}/commit/dab7723821",),
    first="layers.{moe}.moe.router.logits",
    precision="bf16",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, hidden: rounded(sound(self, hidden))

    replace("megatron.core.transformer.moe.router", "Router.gating", made)
