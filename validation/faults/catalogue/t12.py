"""Weight gradients are made of an input that has not all arrived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import TE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="weight gradients are made of an input that has not all arrived",
    sources=(
        f"{TE}/issues/1616",
        f"{TE}/pull/1554",
    ),
    first="gradients/{output}",
    kind="backward",
    layouts=("tp2",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def gather(output: Any, part: Any, *rest: Any, **keywords: Any) -> Any:
            handle = sound(output, part, *rest, **keywords)
            if keywords.get("async_op"):  # for the weight's gradient, while the input's is computed
                handle.wait()
                output[: len(part)] = 0
            return handle

        return gather

    replace("megatron.core.tensor_parallel.layers", "dist_all_gather_func", made)
