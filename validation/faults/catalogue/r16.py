"""The balancing loss is averaged over the data-parallel ranks twice.

Upstream it is the global balancing loss, whose sum over tokens is the rank's own and whose count is that of all ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the balancing loss is averaged over the data-parallel ranks twice",
    sources=(f"{CORE}/issues/7452", f"{CORE}/pull/3769"),
    first="probe_gradients/layers.{moe}.moe.router.logits",
    kind="backward",
    layouts=("dp2+aux+mean",),
    cause="data parallelism",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        return lambda scale: sound(scale / case.layout.data_parallel)

    replace("megatron.core.transformer.moe.moe_utils", "MoEAuxLossAutoScaler.set_loss_scale", made)
