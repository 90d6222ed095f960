"""The latent norms take the epsilon of the others."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import HF, Fault
from validation.faults.inject import layers

FAULT = Fault(
    plugin=__name__,
    group="norm",
    does="the latent norms take the epsilon of the others",
    sources=(f"{HF}/pull/44317",),
    first="layers.0.attention.query",
)


def built(case: Case, model: Any) -> None:
    for found in layers(model):
        found.self_attention.q_layernorm.eps = found.self_attention.kv_layernorm.eps = 1e-5
