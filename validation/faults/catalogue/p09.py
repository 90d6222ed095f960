"""A micro-batch's loss is not divided by their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="a micro-batch's loss is not divided by their number",
    sources=(
        f"{CORE}/commit/41221b879d",
        f"{CORE}/commit/adfa873d96",
    ),
    first="probe_gradients/token_loss",
    kind="backward",
    layouts=("single+mean",),
    cause="option +mean",
    needs="+mean",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def loss(*given: Any, **keywords: Any) -> Any:
            found, tokens = sound(*given, **keywords)
            last = parallel_state.is_pipeline_last_stage()  # before it there is no loss
            return found * case.micro_batches if last else found, tokens

        return loss

    from megatron.core import parallel_state

    replace("megatron.core.pipeline_parallel.schedules", "forward_step_calc_loss", made)
