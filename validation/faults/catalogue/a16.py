"""The softmax is scaled by mscale squared times 1.56.

A01 and A02 for a model whose mscales are the same or that has no yarn: 1.25 enters squared, about what V3 loses with its own
mscale.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="the softmax is scaled by mscale squared times 1.56",
    sources=(f"{CORE}/commit/62f0a9737d",),
    first="layers.0.attention.core",
)


def configure(case: Case, config: Any) -> None:
    replace(
        "megatron.core.transformer.multi_latent_attention",
        "_yarn_get_mscale",
        lambda sound: lambda *given: 1.25 * sound(*given),
    )
