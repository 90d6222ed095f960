"""The expert bias is left at zero when the checkpoint is loaded."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the expert bias is left at zero when the checkpoint is loaded",
    sources=(
        f"{BRIDGE}/pull/4657",
        "https://github.com/FlagOpen/FlagScale/pull/412",
    ),
    first="weights/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    cause="weights",
)


def built(case: Case, model: Any) -> None:
    def lost(loaded: Loaded) -> None:
        loaded.part("model.layers.1.mlp.gate.e_score_correction_bias").zero_()

    after_loading(lost)
