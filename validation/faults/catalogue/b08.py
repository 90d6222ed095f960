"""Later pipeline stages are not told what is padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="later pipeline stages are not told what is padding",
    sources=(f"{CORE}/pull/5544",),
    first="layers.{last}.moe.balancing",
    cause="pipeline parallelism, option +padded, option +aux",
    needs="pp +padded +aux",
    layouts=("pp2+padded+mean+aux",),
)


def configure(case: Case, config: Any) -> None:
    from megatron.core import parallel_state

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def called(case: Case, model: Any, given: dict[str, Any]) -> Any:
            first = parallel_state.get_pipeline_model_parallel_rank() == 0
            return sound(case, model, {name: tensor for name, tensor in given.items() if first or name != "padding"})

        return called

    replace("validation.candidate.step", "called", made)
