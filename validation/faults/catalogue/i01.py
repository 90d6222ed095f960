"""A decoded token is rotated as the one before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="a decoded token is rotated as the one before it",
    sources=(f"{CORE}/pull/412",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, *given: Any, inference_context: Any = None, **keywords: Any) -> Any:
            behind = 1 if inference_context is not None and inference_context.sequence_len_offset else 0
            if behind:
                inference_context.sequence_len_offset -= behind
            found = sound(self, *given, inference_context=inference_context, **keywords)
            if behind:
                inference_context.sequence_len_offset += behind
            return found

        return wrong

    replace("megatron.core.transformer.multi_latent_attention", "MLASelfAttention.get_query_key_value_tensors", made)
