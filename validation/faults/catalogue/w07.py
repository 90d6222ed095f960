"""The final norm is cut for the tensor-parallel ranks and filled up with copies."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the final norm is cut for the tensor-parallel ranks and filled up with copies",
    sources=(f"{PAI}/issues/474",),
    first="weights/model.norm.weight",
    layouts=("tp2",),
)


def built(case: Case, model: Any) -> None:
    def cut(loaded: Loaded) -> None:
        weight = loaded.part("model.norm.weight")
        weight.copy_(weight.chunk(case.layout.tp)[0].repeat(case.layout.tp))

    after_loading(cut)
