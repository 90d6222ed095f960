"""The softmax scale counts the dimensions without position only.

kv_channels in place of the query's whole head, which has rotary dimensions, too.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="the softmax scale counts the dimensions without position only",
    sources=(f"{CORE}/issues/1501",),
    first="layers.0.attention.core",
)


def built(case: Case, model: Any) -> None:
    # Transformer Engine's core attention hands its scale to the attentions that it chooses from.
    for found in layer(model, 0).self_attention.core_attention.modules():
        if hasattr(found, "softmax_scale"):
            found.softmax_scale *= (case.model.query_head_dim / case.model.qk_nope_head_dim) ** 0.5
