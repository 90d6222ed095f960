"""Two parts of what is cached are merged by log-sum-exp in the wrong base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="two parts of what is cached are merged by log-sum-exp in the wrong base",
    sources=("https://github.com/sgl-project/sglang/issues/40903",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, query: Any, key: Any, value: Any, *given: Any, **keywords: Any) -> Any:
            if query.shape[0] > 1:
                return sound(self, query, key, value, *given, **keywords)
            parts = []
            for some, theirs in zip(key.tensor_split(2), value.tensor_split(2), strict=True):
                scores = torch.einsum("qbhd,kbhd->bhqk", query, some) * self.softmax_scale
                parts.append((torch.einsum("bhqk,kbhd->qbhd", scores.softmax(-1), theirs), scores.logsumexp(-1)))
            weights = torch.stack([total for _, total in parts]) / torch.log(torch.tensor(2.0, dtype=query.dtype))
            shares = weights.softmax(0).permute(0, 3, 1, 2)[..., None]
            return sum(share * context for share, (context, _) in zip(shares, parts, strict=True)).flatten(2)

        return wrong

    replace("validation.candidate.modules", "CoreAttention.forward", made)
