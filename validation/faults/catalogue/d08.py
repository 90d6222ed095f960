"""Cos and sin are kept in bfloat16.

By design on megatron-core's fused path; the angles are what is rounded here, which cos and sin are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="cos and sin are kept in bfloat16",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/models/common/embeddings/yarn_rotary_pos_embedding.py",),
    first="layers.0.attention.query",
    precision="fp32",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def applied(tensor: Any, frequencies: Any, *rest: Any, **keywords: Any) -> Any:
            return sound(tensor, rounded(frequencies), *rest, **keywords)

        return applied

    replace("megatron.core.transformer.multi_latent_attention", "apply_rotary_pos_emb", made)
