"""A sum over tensor-parallel ranks runs over the data-parallel ranks, which are as many."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import layer

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="a sum over tensor-parallel ranks runs over the data-parallel ranks, which are as many",
    sources=(f"{CORE}/issues/7452",),
    first="layers.0.attention.output",
    layouts=("tp2dp2",),
    needs="tp dp",
)


def built(case: Case, model: Any) -> None:
    from megatron.core import parallel_state

    layer(model, 0).self_attention.linear_proj.tp_group = parallel_state.get_data_parallel_group()
