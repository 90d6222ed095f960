"""The way back from the experts is cut by sizes in the wrong order.

The transpose of a tensor of three dimensions is another order than that of two; it needs several experts on a rank, expert
and expert-tensor parallelism.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="the way back from the experts is cut by sizes in the wrong order",
    sources=(f"{CORE}/commit/54d4b3ddbb",),
    first="layers.{moe}.moe.routed",
    layouts=("ep2etp2",),
    cause="expert parallelism",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def sized(self: Any, routing_map: Any) -> Any:
            counts = sound(self, routing_map)
            sizes = self.num_global_tokens_per_local_expert
            self.num_global_tokens_per_local_expert = sizes.view(self.tp_size, self.ep_size, self.num_local_experts)
            return counts

        return sized

    replace("megatron.core.transformer.moe.token_dispatcher", "MoEAlltoAllTokenDispatcher.preprocess", made)
