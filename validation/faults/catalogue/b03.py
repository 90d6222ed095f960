"""Packed documents attend to those before them.

Their positions begin again, and attention goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

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


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def attended(attention: Any, query: Any, key: Any, value: Any, packed: Any) -> Any:
            import copy

            whole = copy.copy(packed)
            whole.cu_seqlens_q = whole.cu_seqlens_kv = packed.cu_seqlens_q[[0, -1]]
            return sound(attention, query, key, value, whole)

        return attended

    replace("validation.candidate.modules", "CoreAttention._packed", made)
