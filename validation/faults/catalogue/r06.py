"""The router takes the softmax of its logits in place of the sigmoid.

There is no sigmoid then, and no scores to be seen: no rank reports them.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the router takes the softmax of its logits in place of the sigmoid",
    sources=("https://github.com/NVIDIA/TensorRT-Model-Connect/pull/669",),
    first="layers.{moe}.moe.router.scores",
)


def configure(case: Case, config: Any) -> None:
    config.moe_router_score_function = "softmax"
