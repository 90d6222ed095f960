"""Rope_theta is not the checkpoint's."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="rope_theta is not the checkpoint's",
    sources=(
        "https://github.com/ISEEKYAN/mbridge/commit/d292833",
        f"{CORE}/pull/6585",
    ),
    first="layers.0.attention.query",
)


def configure(case: Case, config: Any) -> None:
    config.rotary_base = 50000.0
