"""Every micro-batch of prompts is cached where the first one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="every micro-batch of prompts is cached where the first one is",
    sources=(f"{CORE}/pull/412",),
    first="decode/layers.0.attention.output",
    layouts=("pp2+static",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, context: Any, *given: Any, **keywords: Any) -> Any:
            offset = getattr(context, "batch_size_offset", 0)
            if offset:
                context.batch_size_offset = 0
            found = sound(self, context, *given, **keywords)
            if offset:
                context.batch_size_offset = offset
            return found

        return wrong

    replace("megatron.core.transformer.attention", "Attention._adjust_key_value_for_inference", made)
