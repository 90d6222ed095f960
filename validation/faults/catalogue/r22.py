"""Each tensor-parallel rank balances the tokens that it sees itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="each tensor-parallel rank balances the tokens that it sees itself",
    sources=(f"{CORE}/commit/cac8d1a3f0",),
    first="layers.{moe}.moe.balancing",
    layouts=("tp2+seqaux+mean",),
    cause="tensor parallelism",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def counted(routing_map: Any, **keywords: Any) -> Any:
            counts, local, total = sound(routing_map=routing_map, **keywords)
            return (routing_map.sum(dim=0) * keywords["reduce_group"].size()).to(counts), local, total

        return counted

    replace("megatron.core.transformer.moe.router", "get_tokens_per_expert_and_token_count", made)
