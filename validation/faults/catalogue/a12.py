"""Yarn's beta_fast is not forwarded."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="yarn's beta_fast is not forwarded",
    sources=(f"{BRIDGE}/pull/3128",),
    first="layers.0.attention.query",
)


def configure(case: Case, config: Any) -> None:
    config.beta_fast = 8.0
