"""Gradients are not zeroed before the second step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="gradients are not zeroed before the second step",
    sources=(f"{CORE}/pull/6565",),
    first="steps/2/gradient_norm",
    kind="step",
    steps=2,
)


def wrapped(case: Case, model: Any) -> None:
    calls: list[int] = []

    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def reset(self: Any) -> None:
            calls.append(1)
            if len(calls) <= sum(len(chunk.buffers + chunk.expert_parallel_buffers) for chunk in model):
                sound(self)

        return reset

    replace("megatron.core.distributed.param_and_grad_buffer", "_ParamAndGradBuffer.reset", made)
