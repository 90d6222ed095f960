"""The gradients of down-projections that every rank holds whole are not summed over the ranks."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers, unmark

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="the gradients of down-projections that every rank holds whole are not summed over the ranks",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/distributed/finalize_model_grads.py",),
    first="gradients/model.layers.{last}.self_attn.kv_a_proj_with_mqa.weight",
    kind="backward",
    layouts=("tp2",),
)


def loaded(case: Case, model: Any) -> None:
    for found in layers(model):
        unmark(found.self_attention.linear_kv_down_proj.weight)
