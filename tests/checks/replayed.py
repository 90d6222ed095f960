"""A plugin with a fault: megatron-core's own router replay is given the experts in reverse order of their numbers."""

from __future__ import annotations

from typing import Any


def configure(case: Any, config: Any) -> None:
    """Before the model is built."""
    from megatron.core.transformer.moe.router_replay import RouterReplay

    def topk(self: Any, scores: Any, topk: int, groups: Any = None, group_topk: Any = None, compute: Any = None) -> Any:
        _, own = compute(scores, topk, groups, group_topk)
        other = scores.shape[1] - 1 - own
        return scores.gather(1, other), other

    config.moe_enable_routing_replay = True
    RouterReplay.get_replay_topk = topk
