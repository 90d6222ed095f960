"""The softmax scale goes without yarn's mscale."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="attention",
    does="the softmax scale goes without yarn's mscale",
    sources=(f"{HF}/pull/47435",),
    first="layers.0.attention.core",
)


def configure(case: Case, config: Any) -> None:
    replace("megatron.core.transformer.multi_latent_attention", "_yarn_get_mscale", lambda sound: lambda *given: 1.0)
