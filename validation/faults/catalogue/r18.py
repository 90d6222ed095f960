"""The router's weight is not marked as seeing a part of the sequence only.

TTrace's router weights not synchronised.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer, unmark

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the router's weight is not marked as seeing a part of the sequence only",
    sources=(
        f"{CORE}/issues/599",
        f"{CORE}/pull/619",
    ),
    first="gradients/model.layers.{moe}.mlp.gate.weight",
    kind="backward",
    layouts=("tp2",),
    cause="tensor parallelism",
)


def loaded(case: Case, model: Any) -> None:
    unmark(layer(model, case.model.moe_layers[0]).mlp.router.weight)
