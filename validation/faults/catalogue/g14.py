"""Weight decay is applied to norm weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="weight decay is applied to norm weights",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/optimizer/__init__.py",),
    first="steps/1/value/model.layers.0.input_layernorm.weight",
    kind="step",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def initialised(self: Any, optimizer: Any, *rest: Any, **keywords: Any) -> None:
            for group in optimizer.param_groups:
                group["wd_mult"] = 1.0
            sound(self, optimizer, *rest, **keywords)

        return initialised

    replace("megatron.core.optimizer_param_scheduler", "OptimizerParamScheduler.__init__", made)
