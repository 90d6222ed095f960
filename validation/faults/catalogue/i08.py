"""Decode reads the value of the token before each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="decode reads the value of the token before each key",
    sources=("https://github.com/ikawrakow/ik_llama.cpp/pull/2031",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, query: Any, key: Any, value: Any, *given: Any, **keywords: Any) -> Any:
            return sound(self, query, key, value if query.shape[0] > 1 else value.roll(1, 0), *given, **keywords)

        return wrong

    replace("validation.candidate.modules", "CoreAttention.forward", made)
