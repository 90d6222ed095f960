"""What is cached of a prompt stays when the weights are updated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="what is cached of a prompt stays when the weights are updated",
    sources=("https://github.com/InternLM/lmdeploy/issues/4917",),
    first="updated-decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, context: Any, query: Any, key: Any, value: Any, *given: Any, **keywords: Any) -> Any:
            if context is not None and context.is_static_batching() and not context.sequence_len_offset:
                kept = vars(self).setdefault("plumbline_prompt", (key.clone(), value.clone()))
                found = sound(self, context, query, key, value, *given, **keywords)
                memory = context.key_value_memory_dict[self.layer_number]
                for cache, first in zip(memory, kept, strict=True):
                    cache[: first.shape[0], : first.shape[1]] = first
                # The prompt itself attends to its own keys.
                return (found[0], key, value, *found[3:])
            return sound(self, context, query, key, value, *given, **keywords)

        return wrong

    replace("megatron.core.transformer.attention", "Attention._adjust_key_value_for_inference", made)
