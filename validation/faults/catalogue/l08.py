"""AdamW's first step is its second.

A step without gradients has made its states, and counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="AdamW's first step is its second",
    sources=(f"{CORE}/pull/5976", f"{CORE}/issues/5974"),
    first="steps/1/value/model.embed_tokens.weight",
    kind="step",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def get(*given: Any, **keywords: Any) -> Any:
            optimizer = sound(*given, **keywords)
            for part in getattr(optimizer, "chained_optimizers", [optimizer]):
                _step_without_gradients(part.optimizer)
            return optimizer

        return get

    replace("validation.candidate.optimizer", "get_megatron_optimizer", made)


def _step_without_gradients(adam: Any) -> None:
    import torch

    if not type(adam).__module__.startswith("torch."):  # Transformer Engine's counts the steps of a group
        for group in adam.param_groups:
            group["step"] = 1
        return
    for parameter in (parameter for group in adam.param_groups for parameter in group["params"]):
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        adam.state[parameter] = {"step": torch.tensor(1.0), **moments}
