"""The choice of experts is not limited to the best groups."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the choice of experts is not limited to the best groups",
    sources=("https://github.com/AI-Hypercomputer/maxtext/pull/1492",),
    first="layers.{moe}.moe.router.experts",
)


def configure(case: Case, config: Any) -> None:
    config.moe_router_num_groups = config.moe_router_group_topk = None
