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
            _move(inference_context, -1)
            found = sound(self, *given, inference_context=inference_context, **keywords)
            _move(inference_context, 1)
            return found

        return wrong

    replace("megatron.core.transformer.multi_latent_attention", "MLASelfAttention.get_query_key_value_tensors", made)


def _move(context: Any, by: int) -> None:
    """Have the tokens of a step of decode stand elsewhere."""
    if context is None:
        return
    if not context.is_static_batching():
        for positions in (context.token_to_pos_ids, context.token_to_position_in_request) if context.is_decode_only() else ():
            positions += by
    elif context.sequence_len_offset:
        context.sequence_len_offset += by
