"""The router computes in bfloat16."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the router computes in bfloat16",
    sources=(
        f"{CORE}/commit/dab7723821",
        f"{CORE}/commit/0f058666a8",
    ),
    first="layers.{moe}.moe.router.logits",
    precision="bf16",
)


def configure(case: Case, config: Any) -> None:
    config.moe_router_dtype = None
