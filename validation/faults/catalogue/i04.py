"""Two parts of what is cached are merged by log-sum-exp in the wrong base."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="two parts of what is cached are merged by log-sum-exp in the wrong base",
    sources=("https://github.com/sgl-project/sglang/issues/40903",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        core = found.self_attention.core_attention
        # Transformer Engine's core attention hands its scale to the attentions that it chooses from.
        scale = next(module.softmax_scale for module in core.modules() if hasattr(module, "softmax_scale"))
        core.forward = _merging(core.forward, scale)


def _merging(sound: Callable[..., Any], scale: float) -> Callable[..., Any]:
    import torch

    def forward(query: Any, key: Any, value: Any, *given: Any, **keywords: Any) -> Any:
        if query.shape[0] > 1:
            return sound(query, key, value, *given, **keywords)
        parts = []
        for some, theirs in zip(key.tensor_split(2), value.tensor_split(2), strict=True):
            scores = torch.einsum("qbhd,kbhd->bhqk", query, some) * scale
            parts.append((torch.einsum("bhqk,kbhd->qbhd", scores.softmax(-1), theirs), scores.logsumexp(-1)))
        weights = torch.stack([total for _, total in parts]) / math.log(2.0)
        shares = weights.softmax(0).permute(0, 3, 1, 2)[..., None]
        return sum(share * context for share, (context, _) in zip(shares, parts, strict=True)).flatten(2)

    return forward
