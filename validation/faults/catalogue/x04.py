"""The shared expert's output is added twice.

What overlapping shared expert and tensor-parallel communication left behind, without the streams that it took.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="the shared expert's output is added twice",
    sources=(f"{CORE}/commit/dc092cb1e9",),
    first="layers.{moe}.moe.output",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, output, shared: sound(self, output, shared) + shared

    replace("megatron.core.transformer.moe.moe_layer", "MoELayer.postprocess", made)
