"""The softmax is scaled by yarn's mscale in place of mscale_all_dim.

Where mscale and mscale_all_dim are the same, as in DeepSeek-V3's own configuration, nothing changes: tiny has them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="the softmax is scaled by yarn's mscale in place of mscale_all_dim",
    sources=(f"{CORE}/commit/62f0a9737d",),
    first="layers.0.attention.core",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., float]) -> Callable[..., float]:
        return lambda scale, mscale_all_dim: sound(scale, case.model.mscale)

    replace("megatron.core.transformer.multi_latent_attention", "_yarn_get_mscale", made)
