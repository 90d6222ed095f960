"""The KV latent norm is built and loaded, and not applied."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="the KV latent norm is built and loaded, and not applied",
    sources=(f"{CORE}/pull/3026",),
    first="layers.0.attention.key",
)


def built(case: Case, model: Any) -> None:
    layer(model, 0).self_attention.kv_layernorm.forward = lambda tensor: tensor
