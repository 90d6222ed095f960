"""The balancing loss is silently off."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the balancing loss is silently off",
    sources=(f"{BRIDGE}/pull/5165",),
    first="layers.{moe}.moe.balancing",
    layouts=("single+seqaux+mean",),
    cause="option +seqaux",
)


def configure(case: Case, config: Any) -> None:
    config.moe_aux_loss_coeff = 0.0
