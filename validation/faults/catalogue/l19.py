"""AdamW keeps its moments in bfloat16.

They are in float32 whenever they are looked at. Limits of twice the floor allow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace, states

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="AdamW keeps its moments in bfloat16",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/optimizer/optimizer_config.py",),
    first="steps/1/exp_avg/model.embed_tokens.weight",
    kind="step",
    precision="bf16",
    cause="optimizer step",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, *behind: Any) -> Any:
            taken = sound(self, *behind)
            for state in states(self):
                for kind in ("exp_avg", "exp_avg_sq"):
                    state[kind].copy_(state[kind].to(torch.bfloat16))
            return taken

        return step

    replace("validation.candidate.optimizer", "Optimizer.step", made)
