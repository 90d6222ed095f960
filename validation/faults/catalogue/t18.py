"""Down-projections that every rank holds whole get the sum of its ranks' gradients missing."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers, unmark

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="down-projections that every rank holds whole get the sum of its ranks' gradients missing",
    sources=(f"{CORE}/issues/1446",),
    first="gradients/model.layers.{last}.self_attn.kv_a_proj_with_mqa.weight",
    kind="backward",
    layouts=("tp2",),
)


def loaded(case: Case, model: Any) -> None:
    for found in layers(model):
        unmark(found.self_attention.linear_kv_down_proj.weight)
