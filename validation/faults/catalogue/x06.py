"""Tokens beyond an expert's capacity are dropped.

The router's own choice is right; what it hands on has holes, and the weights are what is seen of that.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="tokens beyond an expert's capacity are dropped",
    sources=(f"{CORE}/pull/2214",),
    first="layers.{moe}.moe.router.experts",
)


def configure(case: Case, config: Any) -> None:
    config.moe_expert_capacity_factor = 1.0
