"""A decoded token attends to the empty place behind it, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="a decoded token attends to the empty place behind it, too",
    sources=("https://github.com/flashinfer-ai/flashinfer/issues/3716",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, context: Any, *given: Any, **keywords: Any) -> Any:
            query, key, value, *rest = sound(self, context, *given, **keywords)
            if context is not None and context.is_static_batching() and context.sequence_len_offset:
                key, value = (torch.cat([cached, torch.zeros_like(cached[:1])]) for cached in (key, value))
            return (query, key, value, *rest)

        return wrong

    replace("megatron.core.transformer.attention", "Attention._adjust_key_value_for_inference", made)
