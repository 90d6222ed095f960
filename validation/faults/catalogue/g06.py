"""The scale of the balancing loss is not divided by the number of micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the scale of the balancing loss is not divided by the number of micro-batches",
    sources=(f"{CORE}/commit/87d9d2506a",),
    first="probe_gradients/layers.{moe}.moe.router.logits",
    kind="backward",
    layouts=("single+seqaux+mean",),
    cause="option +seqaux",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        return lambda scale: sound(scale * case.micro_batches)

    replace("megatron.core.transformer.moe.moe_utils", "MoEAuxLossAutoScaler.set_loss_scale", made)
