"""The KV latent norm is built and loaded, and not applied."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import latent_norm, layer

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="the KV latent norm is built and loaded, and not applied",
    sources=(f"{CORE}/pull/3026",),
    first="layers.0.attention.key",
)


def built(case: Case, model: Any) -> None:
    from torch.nn import functional

    norm, weight = latent_norm(layer(model, 0), "kv")
    joined = norm.weight is not weight  # the projection alone is left of Transformer Engine's
    norm.forward = (lambda tensor: (functional.linear(tensor, norm.weight), None)) if joined else lambda tensor: tensor
