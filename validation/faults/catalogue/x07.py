"""An expert without tokens keeps the gradient of the step before.

With 8 tokens and 16 experts some are empty in the second step and were not in the first.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.faults.fault import CORE, Fault
from validation.faults.inject import expert_weights

FAULT = Fault(
    plugin=__name__,
    group="experts",
    does="an expert without tokens keeps the gradient of the step before",
    sources=(f"{CORE}/commit/eef48ef31c",),
    first="steps/2/gradient_norm",
    kind="step",
    steps=2,
    batch_size=2,
    seq_length=4,
    cause="optimizer step",
)


def wrapped(case: Case, model: Any) -> None:
    import torch

    kept: dict[Any, Any] = {}
    experts = [weight for chunk in model for _, _, weight in expert_weights(chunk.module)]
    if not experts:
        raise UsageError("this implementation has no weights of single experts, so none can keep a gradient")
    sound = vars(type(model[0]))["finish_grad_sync"]

    def finish(self: Any, *rest: Any, **keywords: Any) -> None:
        for weight in experts:
            empty = not torch.any(weight.main_grad)
            if empty and weight in kept:
                weight.main_grad.copy_(kept[weight])
            kept[weight] = weight.main_grad.clone()
        sound(self, *rest, **keywords)

    type(model[0]).finish_grad_sync = finish
