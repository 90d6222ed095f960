"""The learning rate falls too early: warm-up is taken off the decay twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the learning rate falls too early: warm-up is taken off the decay twice",
    sources=("https://github.com/areal-project/AReaL/pull/1289",),
    first="steps/3/learning_rates",
    kind="step",
    layouts=("single+scheduler.lr_decay_style=cosine+scheduler.lr_warmup_steps=1",),
    cause="option +scheduler.lr_warmup_steps=1, option +scheduler.lr_decay_style=cosine",
    steps=3,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *given: Any, **keywords: Any) -> None:
            shorter = keywords["lr_decay_steps"] - keywords["lr_warmup_steps"]
            sound(self, *given, **{**keywords, "lr_decay_steps": shorter})

        return init

    replace("megatron.core.optimizer_param_scheduler", "OptimizerParamScheduler.__init__", made)
