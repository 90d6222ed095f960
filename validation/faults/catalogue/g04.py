"""The number of tokens is not summed over the data-parallel ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the number of tokens is not summed over the data-parallel ranks",
    sources=(
        f"{CORE}/commit/adfa873d96",
        f"{CORE}/pull/4590",
    ),
    first="gradients/{output}",
    kind="backward",
    layouts=("dp2",),
    cause="data parallelism",
)


def configure(case: Case, config: Any) -> None:
    import torch.distributed as dist

    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def finalize(*given: Any, **keywords: Any) -> None:
            summed = dist.all_reduce
            vars(dist)["all_reduce"] = lambda tensor, **where: None if tensor.numel() == 1 else summed(tensor, **where)
            try:
                sound(*given, **keywords)
            finally:
                vars(dist)["all_reduce"] = summed

        return finalize

    replace("validation.candidate.build", "finalize_model_grads", made)
