"""Layer 0's attention output is not summed over the tensor-parallel ranks.

Whoever implements the projection.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer, own_part_only

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="layer 0's attention output is not summed over the tensor-parallel ranks",
    sources=(f"{CORE}/issues/7452",),
    first="layers.0.attention.output",
    layouts=("tp2",),
)


def built(case: Case, model: Any) -> None:
    projection = layer(model, 0).self_attention.linear_proj
    sound = projection.forward

    def forward(*given: Any, **keywords: Any) -> Any:
        with own_part_only():
            return sound(*given, **keywords)

    projection.forward = forward
