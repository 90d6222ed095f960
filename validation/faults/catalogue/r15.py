"""The scale of the balancing loss misses the context-parallel degree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the scale of the balancing loss misses the context-parallel degree",
    sources=(
        f"{CORE}/pull/2237",
        f"{CORE}/pull/5047",
    ),
    first="probe_gradients/layers.{moe}.moe.router.logits",
    kind="backward",
    layouts=("cp2+seqaux+mean",),
    cause="context parallelism",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        return lambda scale: sound(scale / case.layout.cp)

    replace("megatron.core.transformer.moe.moe_utils", "MoEAuxLossAutoScaler.set_loss_scale", made)
