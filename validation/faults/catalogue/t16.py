"""The latent norms are not marked as seeing a part of the sequence only."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, PAI, Fault
from validation.faults.inject import latent_norm, layers, unmark

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="the latent norms are not marked as seeing a part of the sequence only",
    sources=(
        f"{CORE}/issues/1446",
        f"{PAI}/issues/474",
    ),
    first="gradients/model.layers.{last}.self_attn.kv_a_layernorm.weight",
    kind="backward",
    layouts=("tp2",),
)


def loaded(case: Case, model: Any) -> None:
    for found in layers(model):
        for latent in ("q", "kv"):
            unmark(latent_norm(found, latent)[1])
