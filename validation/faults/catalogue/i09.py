"""Decode takes the two halves of the up-projection for one another.

Of the source only an excerpt was read, on a packed kv_b_proj. Whether it describes this very bug is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="decode takes the two halves of the up-projection for one another",
    sources=("https://github.com/vllm-project/vllm/issues/56773",),
    first="decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, hidden: Any, *given: Any, **keywords: Any) -> Any:
            query, key, value, *rest = sound(self, hidden, *given, **keywords)
            if hidden.shape[0] == 1:
                size = self.config.qk_head_dim
                key, value = torch.cat([value, key[..., size:]], -1), key[..., :size].contiguous()
            return (query, key, value, *rest)

        return wrong

    replace("megatron.core.transformer.multi_latent_attention", "MLASelfAttention.get_query_key_value_tensors", made)
