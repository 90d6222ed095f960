"""After a step of the distributed optimizer parameters are not gathered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="after a step of the distributed optimizer parameters are not gathered",
    sources=(
        f"{CORE}/issues/663",
        f"{CORE}/pull/4609",
    ),
    first="steps/1/value/model.embed_tokens.weight",
    kind="step",
    layouts=("dp2+distributed",),
    steps=1,
    cause="option +distributed",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., None]) -> Callable[..., None]:
        def skipped(self: Any, *given: Any, **keywords: Any) -> None:
            self.param_gather_dispatched = True

        return skipped

    replace("megatron.core.distributed.param_and_grad_buffer", "_ParamAndGradBucketGroup.start_param_sync", made)
