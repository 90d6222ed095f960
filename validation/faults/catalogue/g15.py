"""The second moment decays with torch's default in place of the given one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the second moment decays with torch's default in place of the given one",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/optimizer/optimizer_config.py",),
    first="steps/1/exp_avg_sq/model.embed_tokens.weight",
    kind="step",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def initialised(self: Any, optimizer: Any, *rest: Any, **keywords: Any) -> None:
            for group in optimizer.param_groups:
                group["betas"] = (group["betas"][0], 0.999)
            sound(self, optimizer, *rest, **keywords)

        return initialised

    replace("megatron.core.optimizer_param_scheduler", "OptimizerParamScheduler.__init__", made)
