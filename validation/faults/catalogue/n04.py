"""The norms' epsilon is megatron-core's default and not the checkpoint's."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="the norms' epsilon is megatron-core's default and not the checkpoint's",
    sources=(f"{HF}/pull/44317",),
    first="layers.0.input_norm",
)


def configure(case: Case, config: Any) -> None:
    config.layernorm_epsilon = 1e-5
