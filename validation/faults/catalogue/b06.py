"""Padding counts in the loads that move the expert bias.

The router is not told what is padding.
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
    does="padding counts in the loads that move the expert bias",
    sources=(
        f"{CORE}/issues/1984",
        f"{CORE}/pull/2142",
    ),
    first="steps/1/value/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    kind="step",
    steps=1,
    seq_length=32,
    cause="option +padded, optimizer step",
    needs="+padded",
    layouts=("single+padded",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def counted(router: Any, routing_map: Any, padding_mask: Any = None) -> Any:
            return sound(router, routing_map)

        return counted

    replace("megatron.core.transformer.moe.router", "TopKRouter._apply_expert_bias", made)
