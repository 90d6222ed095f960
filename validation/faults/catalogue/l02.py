"""Weights that are loaded alone do not reach the masters.

The first step goes back to the weights that the optimizer was made of.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="weights that are loaded alone do not reach the masters",
    sources=(
        f"{CORE}/issues/5071",
        "https://github.com/NVIDIA-NeMo/RL/issues/2372",
        "https://github.com/NovaSky-AI/SkyRL/issues/2149",
    ),
    first="steps/1/master/model.embed_tokens.weight",
    kind="step",
    layouts=("single+load-step",),
    cause="option +load-step, optimizer step",
    precision="bf16",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    replace("validation.candidate.checkpointing", "load_weights_alone", lambda sound: lambda optimizer: None)
