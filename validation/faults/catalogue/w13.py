"""The KV up-projection holds all keys and then all values in place of both per head.

Keys and values have as many dimensions here.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the KV up-projection holds all keys and then all values in place of both per head",
    sources=(f"{PAI}/pull/425",),
    first="weights/model.layers.0.self_attn.kv_b_proj.weight",
)


def built(case: Case, model: Any) -> None:
    def grouped(loaded: Loaded) -> None:
        weight = loaded.part("model.layers.0.self_attn.kv_b_proj.weight")
        heads = weight.unflatten(0, (case.model.num_attention_heads, 2, -1))
        weight.copy_(heads.transpose(0, 1).flatten(0, 2).clone())

    after_loading(grouped)
