"""An MTP layer takes its next token from the next document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="an MTP layer takes its next token from the next document",
    sources=(
        f"{CORE}/issues/1661",
        f"{CORE}/pull/4494",
    ),
    first="layers.2.mtp.embedding",
    cause="option +packed, option +mtp",
    needs="+packed +mtp",
    layouts=("single+packed+mtp",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def roll(tensor: Any, *rest: Any, packed_seq_params: Any = None, **keywords: Any) -> Any:
            return sound(tensor, *rest, **keywords)

        return roll

    replace("megatron.core.transformer.multi_token_prediction", "roll_tensor", made)
