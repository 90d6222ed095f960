"""The MTP layer's losses count where the main model's do.

The mask stays where it was while the labels move on by one position: the losses of tokens are right, which of them count is
not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="the MTP layer's losses count where the main model's do",
    sources=(f"{CORE}/issues/7452",),
    first="layers.2.mtp.loss",
    layouts=("single+mtp",),
    cause="option +mtp",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def roll(tensor: Any, **keywords: Any) -> Any:
            return (tensor, tensor.sum()) if tensor.is_floating_point() else sound(tensor, **keywords)

        return roll

    replace("megatron.core.models.gpt.gpt_model", "roll_tensor", made)
