"""Each expert computes with the weights of the next.

After the weights have been compared: what a wrong order of tokens does, in every layout.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.faults.fault import CORE, Fault
from validation.faults.inject import expert_weights, layer

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="each expert computes with the weights of the next",
    sources=(f"{CORE}/commit/254c87400f",),
    first="layers.{moe}.moe.routed",
)


def loaded(case: Case, model: Any) -> None:
    same: dict[str, dict[int, Any]] = defaultdict(dict)
    for name, number, weight in expert_weights(layer(model, case.model.moe_layers[0]).mlp.experts):
        same[name][number] = weight.data
    if not same:
        raise UsageError("this implementation has no weights of single experts; --no-self-test runs without faults")
    for weights in same.values():
        ordered = [weights[number] for number in sorted(weights)]
        first = ordered[0].clone()
        for weight, following in zip(ordered, [*ordered[1:], first], strict=True):
            weight.copy_(following)
