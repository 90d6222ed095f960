"""Attention sees all keys, whatever the indexer has chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import SPARSE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="attention sees all keys, whatever the indexer has chosen",
    sources=("https://github.com/lablup/mlxcel/pull/583",),
    first="layers.0.attention.core",
    since="0.19",
    numbers=SPARSE,
)


def configure(case: Case, config: Any) -> None:
    def ignored(sound: Callable[..., None]) -> Callable[..., None]:
        def mark(index_mask: Any, *rest: Any, **keywords: Any) -> None:
            index_mask.zero_()

        return mark

    room = "megatron.core.transformer.experimental_attention_variant.dsa_masking"
    replace(room, "scatter_topk_into_index_mask", ignored)
