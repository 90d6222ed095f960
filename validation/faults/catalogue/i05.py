"""Decode goes on with the up-projection that it has seen first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="decode goes on with the up-projection that it has seen first",
    sources=("https://github.com/sgl-project/sglang/pull/29916",),
    first="updated-decode/layers.0.attention.output",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, hidden: Any, *given: Any, **keywords: Any) -> Any:
            if hidden.shape[0] > 1:
                return sound(self, hidden, *given, **keywords)
            weight = self.linear_kv_up_proj.weight
            kept = vars(self).setdefault("plumbline_kept", weight.detach().clone())
            now, weight.data = weight.data, kept
            try:
                return sound(self, hidden, *given, **keywords)
            finally:
                weight.data = now

        return wrong

    replace("megatron.core.transformer.multi_latent_attention", "MLASelfAttention.get_query_key_value_tensors", made)
