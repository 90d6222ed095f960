"""The routed scaling factor is applied twice."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the routed scaling factor is applied twice",
    sources=("https://github.com/NVIDIA/TensorRT-Model-Connect/pull/669",),
    first="layers.{moe}.moe.router.weights",
)


def configure(case: Case, config: Any) -> None:
    config.moe_router_topk_scaling_factor **= 2
