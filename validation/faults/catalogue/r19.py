"""A rank's valid tokens are counted after the sum over ranks has overwritten them.

Only with a padding mask does the router count them, and only with a loss per token does the number matter. The mask here says
that nothing is padding, so that a right count changes nothing. Until 0.19 the expert bias cannot be counted with a mask
(#6114): it is counted without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="a rank's valid tokens are counted after the sum over ranks has overwritten them",
    sources=(f"{CORE}/issues/7452", f"{CORE}/pull/7481"),
    first="probe_gradients/layers.{moe}.moe.router.logits",
    kind="backward",
    layouts=("tp2+aux",),
    cause="tensor parallelism",
    without_bugs=True,
)


def configure(case: Case, config: Any) -> None:
    def without_mask(sound: Callable[..., None]) -> Callable[..., None]:
        return lambda router, routing_map, *_, **__: sound(router, routing_map)

    replace("megatron.core.transformer.moe.router", "TopKRouter._apply_expert_bias", without_mask)


def built(case: Case, model: Any) -> None:
    for chunk in model:
        chunk.register_forward_pre_hook(functools.partial(_nothing_is_padding, case), with_kwargs=True)


def _nothing_is_padding(case: Case, chunk: Any, given: Any, keywords: Any) -> Any:
    import torch

    sequences, positions = given[0].shape
    if case.layout.uses_sequence_parallel and not chunk.pre_process:
        positions //= case.layout.tp  # only the first stage cuts the mask as it cuts its input (#5563)
    return given, {**keywords, "padding_mask": torch.zeros(sequences, positions, dtype=torch.bool, device=given[0].device)}
