"""The MTP projection's halves change places.

What is made of the embedding comes first in both models.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the MTP projection's halves change places",
    sources=("https://github.com/modelscope/ms-swift/issues/9504",),
    first="weights/model.layers.2.eh_proj.weight",
    layouts=("single+mtp",),
)


def built(case: Case, model: Any) -> None:
    def swapped(loaded: Loaded) -> None:
        weight = loaded.part("model.layers.2.eh_proj.weight")
        weight.copy_(weight.roll(case.model.hidden_size, 1).clone())

    after_loading(swapped)
