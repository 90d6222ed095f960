"""The gradient norm counts the experts of the first expert-tensor rank only.

Upstream it takes Transformer Engine's grouped linear layers; the norm is what clips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import master_of, replace

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="the gradient norm counts the experts of the first expert-tensor rank only",
    sources=(f"{CORE}/pull/5916",),
    first="steps/1/gradient_norm",
    kind="step",
    layouts=("ep2etp2",),
    steps=1,
    cause="expert-tensor parallelism",
)


def wrapped(case: Case, model: Any) -> None:
    from megatron.core import parallel_state

    first = parallel_state.get_expert_tensor_parallel_rank() == 0
    experts = [weight for chunk in model for weight in chunk.module.parameters() if not getattr(weight, "allreduce", True)]

    def made(sound: Callable[..., bool]) -> Callable[..., bool]:
        def counted(weight: Any, *rest: Any, **keywords: Any) -> bool:
            expert = any(master_of(one) is weight for one in experts)
            return first if expert else sound(weight, *rest, **keywords)

        return counted

    replace("megatron.core.tensor_parallel", "param_is_not_tensor_parallel_duplicate", made)
