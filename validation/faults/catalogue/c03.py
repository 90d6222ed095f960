"""The gradients of keys and values of one rank are halved on the way back.

Transformer Engine's ring attention lost a share of them; its kernel is not here, so that the share is.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, TE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="the gradients of keys and values of one rank are halved on the way back",
    sources=(
        f"{CORE}/issues/1464",
        f"{TE}/pull/1557",
    ),
    first="probe_gradients/layers.{last}.attention.value",
    kind="backward",
    layouts=("cp2",),
)


def built(case: Case, model: Any) -> None:
    from megatron.core import parallel_state

    def halved(module: Any, given: Any) -> None:
        for tensor in given[1:3]:
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: gradient / 2)

    if parallel_state.get_context_parallel_rank() == 1:
        layer(model, 1).self_attention.core_attention.register_forward_pre_hook(halved)
