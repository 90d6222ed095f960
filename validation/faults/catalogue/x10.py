"""The router's weight is applied to an expert's output twice.

megatron-core applies it within the expert and HuggingFace behind it: a mixture of both does it twice.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="the router's weight is applied to an expert's output twice",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/transformer/moe/experts.py",),
    first="layers.{moe}.moe.routed",
)


def built(case: Case, model: Any) -> None:
    found = layer(model, 1).mlp.experts
    sound = found.forward
    found.forward = lambda tokens, counts, probs: sound(tokens, counts, probs**2)
