"""The last layer's input norm is not marked as seeing a part of the sequence only."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, TE, Fault
from validation.faults.inject import layer, unmark

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="the last layer's input norm is not marked as seeing a part of the sequence only",
    sources=(
        f"{CORE}/issues/1446",
        f"{TE}/pull/1528",
    ),
    first="gradients/model.layers.{last}.input_layernorm.weight",
    kind="backward",
    layouts=("tp2",),
)


def loaded(case: Case, model: Any) -> None:
    unmark(layer(model, case.model.num_hidden_layers - 1).input_layernorm.weight)
