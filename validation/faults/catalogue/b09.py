"""The last token of a document is trained to predict the next document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="the last token of a document is trained to predict the next document",
    sources=("https://github.com/pytorch/torchtitan/pull/4075",),
    first="loss",
    cause="option +documents",
    needs="+documents",
    layouts=("single+documents",),
    without_bugs=True,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def batches(*given: Any) -> Any:
            from validation.case.data import END

            for data in sound(*given):
                yield {**data, "mask": data["mask"] | (data["tokens"] == END)}

        return batches

    replace("validation.candidate.step", "micro_batches", made)
