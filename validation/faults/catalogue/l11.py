"""The model goes on with the weights of before the step.

The masters move, and nothing copies them to the model. Embedding and norms are large: in one step they move by less than limits
of bf16 allow.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the model goes on with the weights of before the step",
    sources=(f"{CORE}/pull/6336",),
    first="steps/1/value/model.embed_tokens.weight",
    kind="step",
    cause="optimizer step",
    precision="bf16",
    steps=1,
)


def configure(case: Case, config: Any) -> None:
    replace(
        "megatron.core.optimizer.optimizer",
        "Float16OptimizerWithFloat16Params._copy_main_params_to_model_params",
        lambda sound: lambda self: None,
    )
