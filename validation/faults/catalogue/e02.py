"""Gradients of experts are scaled by the expert-parallel degree."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="gradients of experts are scaled by the expert-parallel degree",
    sources=(f"{CORE}/commit/4f8974a400",),
    first="gradients/model.layers.{moe}.mlp.experts.down_proj.weight",
    kind="backward",
    layouts=("ep2",),
)


def wrapped(case: Case, model: Any) -> None:
    for groups in (chunk.expert_parallel_bucket_groups for chunk in model):
        for bucket in (bucket for group in groups for bucket in group.buckets):
            bucket.gradient_scaling_factor /= case.layout.ep
