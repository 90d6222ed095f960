"""The gradient of the shared rotary key is not summed over tensor-parallel ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, TE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="the gradient of the shared rotary key is not summed over tensor-parallel ranks",
    sources=(
        f"{CORE}/issues/1699",
        f"{TE}/issues/1975",
    ),
    first="probe_gradients/layers.{last}.attention.kv_latent",
    kind="backward",
    layouts=("tp2",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, **keywords: sound(tensor, tensor_parallel_output_grad=False, **keywords)

    replace("megatron.core.transformer.multi_latent_attention", "gather_from_sequence_parallel_region", made)
