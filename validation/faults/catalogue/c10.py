"""From the second micro-batch on attention takes a context-parallel group of one rank.

Upstream it writes the group of the time when it was built back into the model's groups: the first batch is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="from the second micro-batch on attention takes a context-parallel group of one rank",
    sources=(f"{CORE}/issues/7452", f"{CORE}/pull/6821"),
    first="layers.0.attention.core",
    layouts=("cp2",),
    needs="cp",
)


class _Alone:
    """A group of this rank alone."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        core = found.self_attention.core_attention
        core.forward = _forgetting(core, core.forward)


def _forgetting(core: Any, sound: Callable[..., Any]) -> Callable[..., Any]:
    batches = 0

    def forward(query: Any, key: Any, value: Any, mask: Any = None, *rest: Any, **keywords: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 1:
            return sound(query, key, value, mask, *rest, **keywords)
        core.cp_group = _Alone()
        return sound(query, key, value, None, *rest, **keywords)

    return forward
