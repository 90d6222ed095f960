"""Documents attend to the padding before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="documents attend to the padding before them",
    sources=("https://github.com/huggingface/trl/pull/2708",),
    first="layers.0.attention.core",
    cause="option +left-padded",
    needs="+left-padded",
    layouts=("single+left-padded",),
    without_bugs=True,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda documents: sound(documents) & False

    replace("validation.candidate.step", "other_documents", made)
