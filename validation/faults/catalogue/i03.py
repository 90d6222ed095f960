"""A prompt is prefilled without a mask, because there is a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="a prompt is prefilled without a mask, because there is a cache",
    sources=("https://github.com/Mikyx-1/TinyLLM/issues/17",),
    first="prefill/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    from megatron.core.transformer.enums import AttnMaskType

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, context: Any, *given: Any, **keywords: Any) -> Any:
            *found, kind, table = sound(self, context, *given, **keywords)
            return (*found, kind if context is None else AttnMaskType.no_mask, table)

        return wrong

    replace("megatron.core.transformer.attention", "Attention._adjust_key_value_for_inference", made)
