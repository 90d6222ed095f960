"""The expert with the smallest bias is given the largest.

A bias that is wrong after the weights have been compared: it prefers what it should prefer least, whatever the biases are.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the expert with the smallest bias is given the largest",
    sources=(f"{BRIDGE}/pull/4657",),
    first="layers.{moe}.moe.router.experts",
)


def loaded(case: Case, model: Any) -> None:
    bias = layer(model, case.model.moe_layers[0]).mlp.router.expert_bias
    bias[bias.argmin()] = bias.max() + 1
