"""The tokens of each expert are counted in bfloat16.

Above 256 tokens bfloat16 no longer knows every number. It shows where an expert's load is so near the average that it then
lies on the other side: the batch has 1024 tokens an expert, and the seed one such expert (two of the first thirteen have).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace, rounded

FAULT = Fault(
    plugin=__name__,
    group="router",
    does="the tokens of each expert are counted in bfloat16",
    sources=(f"{CORE}/pull/7081",),
    first="steps/1/value/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    kind="step",
    steps=1,
    batch_size=32,
    seq_length=128,
    seed=11,
    cause="optimizer step",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def counted(self: Any, *rest: Any, **keywords: Any) -> None:
            sound(self, *rest, **keywords)
            self.local_tokens_per_expert.copy_(rounded(self.local_tokens_per_expert))

        return counted

    replace("megatron.core.transformer.moe.router", "TopKRouter._apply_expert_bias", made)
