"""A norm in front of the experts is not marked as seeing a part of the sequence only."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer, unmark

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="a norm in front of the experts is not marked as seeing a part of the sequence only",
    sources=(f"{CORE}/issues/1446",),
    first="gradients/model.layers.{moe}.post_attention_layernorm.weight",
    kind="backward",
    layouts=("tp2",),
)


def loaded(case: Case, model: Any) -> None:
    unmark(layer(model, 1).pre_mlp_layernorm.weight)
