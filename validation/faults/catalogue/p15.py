"""The gradient norm counts the embedding once more on the stage of the MTP layer, which has a copy."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import embedding_copies

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the gradient norm counts the embedding once more on the stage of the MTP layer, which has a copy",
    sources=("https://github.com/pytorch/torchtitan/pull/4488",),
    first="steps/1/gradient_norm",
    kind="step",
    layouts=("pp2+mtp",),
    steps=1,
    cause="pipeline parallelism, option +mtp, optimizer step",
    needs="pp +mtp",
)


def built(case: Case, model: Any) -> None:
    for copy in embedding_copies(model):
        vars(copy)["shared"] = False
