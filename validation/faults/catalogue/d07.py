"""The softmax of attention runs in bfloat16."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the softmax of attention runs in bfloat16",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/transformer/dot_product_attention.py",),
    first="layers.0.attention.core",
    precision="fp32",
    absent=(("bf16", "core attention of a bf16 model is given bf16"),),
)


def built(case: Case, model: Any) -> None:
    import torch

    for found in layers(model):
        attention = found.self_attention.core_attention
        attention.forward = lambda *given, sound=attention.forward, **keywords: sound(
            *(tensor.to(torch.bfloat16) for tensor in given[:3]), *given[3:], **keywords
        ).float()
