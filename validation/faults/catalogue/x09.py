"""Each expert computes with the weights of the next.

After the weights have been compared: what a wrong order of tokens does, in every layout.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="each expert computes with the weights of the next",
    sources=(f"{CORE}/commit/254c87400f",),
    first="layers.{moe}.moe.routed",
)


def loaded(case: Case, model: Any) -> None:
    import re
    from collections import defaultdict

    from validation.case.errors import UsageError

    expert = re.compile(r"(?<=local_experts\.)\d+|(?<=linear_fc[12]\.weight)\d+$")
    same: dict[str, dict[int, Any]] = defaultdict(dict)
    for name, weight in layer(model, case.model.moe_layers[0]).mlp.experts.named_parameters():
        if found := expert.search(name):
            same[expert.sub("", name)][int(found.group())] = weight.data
    if not same:
        raise UsageError("this implementation has no weights of single experts; --no-self-test runs without faults")
    for weights in same.values():
        ordered = [weights[number] for number in sorted(weights)]
        first = ordered[0].clone()
        for weight, following in zip(ordered, [*ordered[1:], first], strict=True):
            weight.copy_(following)
