"""Experts are loaded in the order of their numbers as text.

10 comes before 2.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="experts are loaded in the order of their numbers as text",
    sources=(
        f"{PAI}/pull/479",
        f"{BRIDGE}/pull/4706",
    ),
    first="weights/model.layers.{moe}.mlp.experts.gate_proj.weight",
)


def built(case: Case, model: Any) -> None:
    def as_text(loaded: Loaded) -> None:
        order = sorted(range(case.model.n_routed_experts), key=str)
        for name in (name for name in loaded.names() if ".mlp.experts." in name):
            for part, view in loaded.parts(name):
                wrong = order[part.box[0][0]]
                view.copy_(loaded.read(name, ((wrong, wrong + 1), *part.box[1:])))

    after_loading(as_text)
