"""A pipeline stage sends what it has begun to overwrite.

A race upstream (docs/findings/outputs-freed-while-sent.md); here it is lost every time, at the last position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="a pipeline stage sends what it has begun to overwrite",
    sources=(f"{CORE}/pull/4047",),
    first="layers.1.input_norm",
    layouts=("pp2vpp2",),
    layers=4,
    cause="virtual pipeline",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def sent(self: Any, output_tensor: Any, *rest: Any, **keywords: Any) -> Any:
            if output_tensor is not None:
                output_tensor = output_tensor.detach().clone().requires_grad_()
                with torch.no_grad():
                    output_tensor[-1] = output_tensor[0]
            return sound(self, output_tensor, *rest, **keywords)

        return sent

    import torch

    replace("megatron.core.pipeline_parallel.p2p_communication", "P2PCommunicator.send_forward_recv_forward", made)
