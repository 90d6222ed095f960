"""The MTP layer is not converted and keeps its initial values."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the MTP layer is not converted and keeps its initial values",
    sources=("https://github.com/modelscope/ms-swift/issues/6644",),
    first="weights/model.layers.2.enorm.weight",
    layouts=("single+mtp",),
)


def built(case: Case, model: Any) -> None:
    def left(loaded: Loaded) -> None:
        for name in (name for name in loaded.names() if name.startswith("model.layers.2.")):
            for _, view in loaded.parts(name):
                view.fill_(1) if name.endswith("norm.weight") else view.normal_(0, 0.02)

    after_loading(left)
