"""Gradients are not summed over the data-parallel ranks."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="gradients are not summed over the data-parallel ranks",
    sources=(f"{CORE}/pull/4609",),
    first="gradients/{output}",
    kind="backward",
    layouts=("dp2",),
    cause="data parallelism",
)


def wrapped(case: Case, model: Any) -> None:
    for chunk in model:
        chunk.bucket_groups.clear()
