"""The output projection is cut along the dimension of column-parallel weights.

The part has the right number of elements, and a reshape hides the rest.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the output projection is cut along the dimension of column-parallel weights",
    sources=(f"{PAI}/pull/475",),
    first="weights/model.layers.0.self_attn.o_proj.weight",
    layouts=("tp2",),
)


def built(case: Case, model: Any) -> None:
    def other(loaded: Loaded) -> None:
        name = "model.layers.0.self_attn.o_proj.weight"
        ((part, view),) = loaded.parts(name)
        rows = case.model.hidden_size // case.layout.tp
        start = part.box[1][0] // view.shape[1] * rows
        columns = case.model.num_attention_heads * case.model.v_head_dim
        view.copy_(loaded.read(name, ((start, start + rows), (0, columns))).reshape(view.shape))

    after_loading(other)
