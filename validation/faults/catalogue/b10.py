"""The token that ends a document is taken for padding.

It is the token that pads, too, and is left out of the loss by its value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import BRIDGE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="the token that ends a document is taken for padding",
    sources=(f"{BRIDGE}/pull/4660",),
    first="loss",
    cause="option +padded",
    needs="+padded",
    layouts=("single+padded",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def batches(*given: Any) -> Any:
            from validation.case.data import END

            for data in sound(*given):
                yield {**data, "mask": data["mask"] & (data["labels"] != END)}

        return batches

    replace("validation.candidate.step", "micro_batches", made)
