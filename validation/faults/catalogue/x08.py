"""The experts' gate and up projections change places."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="the experts' gate and up projections change places",
    sources=(
        f"{CORE}/issues/360",
        "https://github.com/FlagOpen/FlagScale/pull/401",
    ),
    first="weights/model.layers.{moe}.mlp.experts.gate_proj.weight",
    cause="weights",
)


def built(case: Case, model: Any) -> None:
    def swapped(loaded: Loaded) -> None:
        prefix = "model.layers.1.mlp.experts."
        pairs = zip(loaded.parts(f"{prefix}gate_proj.weight"), loaded.parts(f"{prefix}up_proj.weight"), strict=True)
        for (_, gate), (_, up) in pairs:
            kept = gate.clone()
            gate.copy_(up)
            up.copy_(kept)

    after_loading(swapped)
