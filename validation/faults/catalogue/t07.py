"""The gradient that leaves the output layer is not summed over tensor-parallel ranks.

Upstream the layer was taken for an expert's, which leaves the sum to somebody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="the gradient that leaves the output layer is not summed over tensor-parallel ranks",
    sources=(f"{PAI}/pull/254",),
    first="probe_gradients/final_norm",
    kind="backward",
    layouts=("tp2",),
)


def built(case: Case, model: Any) -> None:
    from types import SimpleNamespace

    in_output_layer: list[bool] = []

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def scatter(output: Any, whole: Any, *rest: Any, **keywords: Any) -> Any:
            if not in_output_layer:
                return sound(output, whole, *rest, **keywords)
            in_output_layer.clear()
            group = keywords["group"]
            output.copy_(whole.chunk(group.size())[group.rank()])
            return SimpleNamespace(wait=lambda: None)

        return scatter

    replace("megatron.core.tensor_parallel.layers", "dist_reduce_scatter_func", made)

    def arriving(module: Any, given: Any, output: Any) -> None:
        output[0].register_hook(lambda gradient: in_output_layer.append(True))

    model[-1].output_layer.register_forward_hook(arriving)
