"""The embedding is read before its bucket is gathered.

The forward pass behind a step computes with the other ranks' weights of before the step. They are right a layer later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="the embedding is read before its bucket is gathered",
    sources=(f"{CORE}/issues/950",),
    first="steps/2/gradient_norm",
    kind="step",
    layouts=("dp2+distributed+ddp.overlap_grad_reduce+ddp.overlap_param_gather",),
    cause="option +ddp.overlap_param_gather, option +distributed",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def finish(self: Any, *given: Any, **keywords: Any) -> None:
            late = not self.param_gather_dispatched and not getattr(self, "is_late", False)
            self.is_late = late
            if not late:
                sound(self, *given, **keywords)

        return finish

    replace("megatron.core.distributed.param_and_grad_buffer", "_ParamAndGradBucketGroup.finish_param_sync", made)
