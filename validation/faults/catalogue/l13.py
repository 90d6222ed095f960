"""A resumed run begins without an expert bias.

The checkpoint's is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import layers, replace

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="a resumed run begins without an expert bias",
    sources=("https://github.com/flagos-ai/FlagScale/pull/412",),
    first="steps/2/gradient_norm",
    kind="step",
    layouts=("single+step-resume-step",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def load(chunks: Any, *rest: Any) -> None:
            sound(chunks, *rest)
            for found in layers(chunks):
                if found.layer_number - 1 in case.model.moe_layers:
                    found.mlp.router.expert_bias.zero_()

        return load

    replace("validation.candidate.checkpointing", "load", made)
