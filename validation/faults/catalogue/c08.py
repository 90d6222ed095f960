"""Gradients are not summed over the context-parallel ranks."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="gradients are not summed over the context-parallel ranks",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/distributed/param_and_grad_buffer.py",),
    first="gradients/{output}",
    kind="backward",
    layouts=("cp2",),
    needs="cp",
)


def wrapped(case: Case, model: Any) -> None:
    for chunk in model:
        chunk.bucket_groups.clear()
