"""A weight that is found under no name keeps its initial values."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="a weight that is found under no name keeps its initial values",
    sources=(f"{BRIDGE}/pull/4706",),
    first="weights/model.layers.0.self_attn.o_proj.weight",
)


def built(case: Case, model: Any) -> None:
    after_loading(lambda loaded: loaded.part("model.layers.0.self_attn.o_proj.weight").normal_(0, 0.02))
