"""Packed documents attend to those before them.

Their positions begin again, and attention goes on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="packed documents attend to those before them",
    sources=("https://github.com/huggingface/nanoVLM/pull/204",),
    first="layers.0.attention.core",
    cause="option +packed",
    needs="+packed",
    layouts=("single+packed",),
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        core = found.self_attention.core_attention
        core.forward = _going_on(core.forward)


def _going_on(sound: Callable[..., Any]) -> Callable[..., Any]:
    def forward(query: Any, *given: Any, packed_seq_params: Any, **keywords: Any) -> Any:
        whole = copy.copy(packed_seq_params)
        whole.cu_seqlens_q = whole.cu_seqlens_kv = packed_seq_params.cu_seqlens_q[[0, -1]]
        whole.max_seqlen_q = whole.max_seqlen_kv = len(query)
        return sound(query, *given, packed_seq_params=whole, **keywords)

    return forward
