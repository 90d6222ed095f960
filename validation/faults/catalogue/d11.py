"""Gradients are summed in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="gradients are summed in bfloat16",
    sources=(f"{CORE}/pull/4410",),
    first="gradients/{output}",
    kind="backward",
    layouts=("dp2",),
    precision="bf16",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*, ddp_config: Any, **keywords: Any) -> Any:
            ddp_config.grad_reduce_in_fp32 = False
            return sound(ddp_config=ddp_config, **keywords)

        return wrapped

    replace("validation.candidate.build", "DistributedDataParallel", made)
