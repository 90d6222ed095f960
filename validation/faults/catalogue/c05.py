"""Labels are shifted after the sequence has been cut.

Only the tokens at the ends of a rank's parts have the wrong label.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="labels are shifted after the sequence has been cut",
    sources=("https://github.com/volcengine/verl/pull/4250",),
    first="token_loss",
    layouts=("cp2",),
    needs="cp",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def batches(*given: Any) -> Any:
            for data in sound(*given):
                yield {**data, "labels": data["tokens"].roll(-1, 1)}

        return batches

    replace("validation.candidate.step", "micro_batches", made)
