"""Rotary positions are contiguous where the sequence is cut in zigzag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="rotary positions are contiguous where the sequence is cut in zigzag",
    sources=(
        f"{CORE}/pull/5243",
        f"{CORE}/commit/28778d1283",
    ),
    first="layers.0.attention.query",
    layouts=("cp2",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda emb, dim, group: emb.chunk(group.size(), dim)[group.rank()].contiguous()

    replace("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding", "get_pos_emb_on_this_cp_rank", made)
