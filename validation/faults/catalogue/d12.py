"""The loss is computed of bfloat16 numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the loss is computed of bfloat16 numbers",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/tensor_parallel/cross_entropy.py",),
    first="token_loss",
    precision="fp32",
)


def configure(case: Case, config: Any) -> None:

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: rounded(sound(*given))

    replace("megatron.core.tensor_parallel", "vocab_parallel_cross_entropy", made)
