"""A sum over tensor-parallel ranks is lost where its input is not contiguous.

megatron-core 0.16.1 has it: the fault only makes the inputs such, and the first sum of a forward pass is the embedding's.
Without sequence parallelism, which layers with experts refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="a sum over tensor-parallel ranks is lost where its input is not contiguous",
    sources=(f"{CORE}/pull/5338",),
    first="embedding",
    layouts=("tp2nosp",),
    numbers=(("first_k_dense_replace", "2"),),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, **keywords: sound(tensor.transpose(0, -1).contiguous().transpose(0, -1), **keywords)

    replace("megatron.core.tensor_parallel.layers", "reduce_from_tensor_model_parallel_region", made)
