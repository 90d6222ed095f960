"""Every expert-tensor rank takes the first part of an expert's weights."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="every expert-tensor rank takes the first part of an expert's weights",
    sources=(
        f"{BRIDGE}/pull/3035",
        f"{BRIDGE}/pull/4754",
    ),
    first="weights/model.layers.{moe}.mlp.experts.gate_proj.weight",
    layouts=("tp2",),
    cause="expert-tensor parallelism",
)


def built(case: Case, model: Any) -> None:
    def first_part(loaded: Loaded) -> None:
        name = "model.layers.1.mlp.experts.gate_proj.weight"
        for part, view in loaded.parts(name):
            expert, (start, stop), columns = part.box
            view.copy_(loaded.read(name, (expert, (0, stop - start), columns)))

    after_loading(first_part)
