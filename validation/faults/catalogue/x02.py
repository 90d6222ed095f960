"""Tokens are sorted to the wrong local experts."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="tokens are sorted to the wrong local experts",
    sources=(
        f"{CORE}/commit/254c87400f",
        f"{CORE}/commit/b6ce193888",
    ),
    first="layers.{moe}.moe.routed",
    layouts=("ep2",),
    cause="expert parallelism",
)


def built(case: Case, model: Any) -> None:
    import torch

    for found in layers(model)[1:]:
        dispatcher = found.mlp.token_dispatcher
        dispatcher.sort_input_by_local_experts = torch.arange(dispatcher.num_experts * dispatcher.tp_size)
