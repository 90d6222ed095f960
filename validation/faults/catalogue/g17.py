"""Gradients whose norm is below the limit of clipping are scaled up to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="gradients whose norm is below the limit of clipping are scaled up to it",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/optimizer/clip_grads.py",),
    first="steps/2/exp_avg/model.embed_tokens.weight",
    kind="step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def clip(parameters: Any, max_norm: float, total_norm: float, **keywords: Any) -> None:
            sound(parameters, max_norm, total_norm, **keywords)
            for weight in parameters if total_norm < max_norm else ():
                gradient = getattr(weight, "decoupled_grad", None) if keywords.get("use_decoupled_grad") else weight.grad
                if gradient is not None:
                    gradient.mul_(max_norm / (total_norm + 1e-6))

        return clip

    replace("megatron.core.optimizer.optimizer", "clip_grad_by_total_norm_fp32", made)
