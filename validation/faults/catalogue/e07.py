"""Experts and the rest are clipped by norms of their own.

The norm that is reported is right; what each optimizer of the chain clips by is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="experts and the rest are clipped by norms of their own",
    sources=(f"{CORE}/commit/abf10f8590",),
    first="steps/1/exp_avg/model.embed_tokens.weight",
    kind="step",
    layouts=("ep2",),
    steps=1,
    needs="ep",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def clip(parameters: Any, max_norm: float, total_norm: Any, **keywords: Any) -> None:
            squares = sum(
                float((weight.grad if weight.grad is not None else weight.main_grad).pow(2).sum()) for weight in parameters
            )
            sound(parameters, max_norm, squares**0.5, **keywords)

        return clip

    replace("megatron.core.optimizer.optimizer", "clip_grad_by_total_norm_fp32", made)
