"""A bfloat16 model takes its expert bias along."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, HF, Fault
from validation.faults.inject import Loaded, after_loading, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="a bfloat16 model takes its expert bias along",
    sources=(
        f"{CORE}/issues/1482",
        f"{HF}/pull/42580",
    ),
    first="weights/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    precision="bf16",
    needs="bf16",
)


def built(case: Case, model: Any) -> None:
    def short(loaded: Loaded) -> None:
        bias = loaded.part("model.layers.1.mlp.gate.e_score_correction_bias")
        bias.copy_(rounded(bias))

    after_loading(short)
