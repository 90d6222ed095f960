"""Multi-latent attention gives the latent norms megatron-core's default epsilon.

What it does by itself where a checkpoint's rms_norm_eps is 1e-5 (docs/findings/latent-norm-epsilon.md), put where that is 1e-6
as HuggingFace's latent norms have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault
from validation.faults.inject import latent_norm, layers, replace

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="multi-latent attention gives the latent norms megatron-core's default epsilon",
    sources=(f"{HF}/pull/44317",),
    first="layers.0.attention.query",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def build(*given: Any, **keywords: Any) -> Any:
            return sound(*given, **keywords | ({"eps": 1e-5} if "eps" in keywords else {}))

        return build

    replace("megatron.core.transformer.multi_latent_attention", "build_module", made)


def built(case: Case, model: Any) -> None:
    for found in layers(model) if case.uses_te else ():  # its projections have the epsilon
        for latent in ("q", "kv"):
            latent_norm(found, latent)[0].eps = 1e-5
