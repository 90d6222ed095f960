"""The gradient of the shared rotary key is summed over tensor-parallel ranks twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="the gradient of the shared rotary key is summed over tensor-parallel ranks twice",
    sources=(f"{CORE}/pull/6839",),
    first="probe_gradients/layers.{last}.attention.kv_latent",
    kind="backward",
    layouts=("tp2",),
)


def configure(case: Case, config: Any) -> None:
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, **keywords: copy_to_tensor_model_parallel_region(sound(tensor, **keywords), **keywords)

    replace("megatron.core.transformer.multi_latent_attention", "gather_from_sequence_parallel_region", made)
