"""The router's weight gets no gradient of the balancing loss.

Its value in the log is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the router's weight gets no gradient of the balancing loss",
    sources=(f"{BRIDGE}/pull/5165",),
    first="probe_gradients/layers.{moe}.moe.router.logits",
    kind="backward",
    layouts=("single+seqaux+mean",),
    cause="option +seqaux",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda logits, *rest, **keywords: sound(logits.detach(), *rest, **keywords)

    replace("megatron.core.transformer.moe.router", "compute_routing_scores_for_aux_loss", made)
