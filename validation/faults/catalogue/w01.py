"""Gate and up projection change places.

Shapes, norms and histograms stay the same.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="gate and up projection change places",
    sources=(
        f"{CORE}/issues/360",
        f"{CORE}/pull/520",
    ),
    first="weights/model.layers.0.mlp.gate_proj.weight",
)


def built(case: Case, model: Any) -> None:
    def swapped(loaded: Loaded) -> None:
        gate, up = (loaded.part(f"model.layers.0.mlp.{kind}_proj.weight") for kind in ("gate", "up"))
        kept = gate.clone()
        gate.copy_(up)
        up.copy_(kept)

    after_loading(swapped)
