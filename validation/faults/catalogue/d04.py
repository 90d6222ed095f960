"""The residual is cast down to bfloat16."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the residual is cast down to bfloat16",
    sources=(f"{CORE}/pull/3504",),
    first="layers.0.attention.residual",
    precision="fp32",
    absent=(("bf16", "the residual of a bf16 model is bf16"),),
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        sound = found.self_attn_bda
        found.self_attn_bda = lambda *given, sound=sound: lambda *rest: rounded(sound(*given)(*rest))
