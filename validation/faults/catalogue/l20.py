"""What bfloat16 cannot hold of the masters is cut off, not rounded.

Each weight is too near to zero by up to a unit in its last place. Limits of twice the floor allow it in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import TE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="what bfloat16 cannot hold of the masters is cut off, not rounded",
    sources=(f"{TE}/blob/v2.11/transformer_engine/common/multi_tensor/adam.cu",),
    first="steps/1/value/model.embed_tokens.weight",
    kind="step",
    precision="bf16",
    cause="optimizer step",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    import torch

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def copy(self: Any) -> None:
            sound(self)
            for masters, weights in zip(self.fp32_from_float16_groups, self.float16_groups, strict=True):
                for master, weight in zip(masters, weights, strict=True):
                    weight.data.copy_((master.data.view(torch.int32) & -0x10000).view(torch.float32))

        return copy

    replace(
        "megatron.core.optimizer.optimizer",
        "Float16OptimizerWithFloat16Params._copy_main_params_to_model_params",
        made,
    )
