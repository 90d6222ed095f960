"""A layer's two norms are loaded in each other's place."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="a layer's two norms are loaded in each other's place",
    sources=(f"{PAI}/issues/638",),
    first="weights/model.layers.0.input_layernorm.weight",
)


def built(case: Case, model: Any) -> None:
    def swapped(loaded: Loaded) -> None:
        one, other = (loaded.part(f"model.layers.0.{kind}_layernorm.weight") for kind in ("input", "post_attention"))
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)

    after_loading(swapped)
