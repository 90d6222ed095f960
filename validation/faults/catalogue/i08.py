"""Decode reads the value of the token before each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="decode reads the value of the token before each key",
    sources=("https://github.com/ikawrakow/ik_llama.cpp/pull/2031",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        core = found.self_attention.core_attention
        core.forward = _reading_before(core.forward)


def _reading_before(sound: Callable[..., Any]) -> Callable[..., Any]:
    def forward(query: Any, key: Any, value: Any, *given: Any, **keywords: Any) -> Any:
        return sound(query, key, value if query.shape[0] > 1 else value.roll(1, 0), *given, **keywords)

    return forward
