"""Tokens of an evaluation pass count in the loads that move the expert bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="tokens of an evaluation pass count in the loads that move the expert bias",
    sources=("https://github.com/pytorch/torchtitan/pull/4148",),
    first="steps/2/value/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    kind="step",
    layouts=("single+step-evaluate-step",),
    cause="option +step-evaluate-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def apply(self: Any, *given: Any, **keywords: Any) -> None:
            with torch.enable_grad():
                sound(self, *given, **keywords)

        return apply

    replace("megatron.core.transformer.moe.router", "TopKRouter._apply_expert_bias", made)
