"""Yarn's defaults are applied to a model without yarn."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="yarn's defaults are applied to a model without yarn",
    sources=(
        f"{BRIDGE}/pull/2791",
        f"{BRIDGE}/pull/3128",
    ),
    first="layers.0.attention.query",
    numbers=(("rope_type", "default"),),
)


def configure(case: Case, config: Any) -> None:
    config.rope_type, config.rotary_scaling_factor, config.mscale_all_dim = "yarn", 40.0, 0.0
