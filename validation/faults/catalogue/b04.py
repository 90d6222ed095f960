"""Packed documents end one token late.

Their lengths are counted with the token that only a label needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="packed documents end one token late",
    sources=(f"{CORE}/pull/5298",),
    first="layers.0.attention.query",
    cause="option +packed",
    needs="+packed",
    layouts=("single+packed",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def packed(documents: Any, *rest: Any) -> Any:
            import torch

            late = torch.cat([documents[:, :1], documents[:, :-1]], 1)
            return sound(late, *rest)

        return packed

    replace("validation.candidate.step", "packed", made)
