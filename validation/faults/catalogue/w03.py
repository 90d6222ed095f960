"""Gate and up are joined first and cut for the ranks afterwards."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="gate and up are joined first and cut for the ranks afterwards",
    sources=(
        "https://github.com/FlagOpen/FlagScale/pull/401",
        f"{CORE}/pull/520",
    ),
    first="weights/model.layers.0.mlp.gate_proj.weight",
    layouts=("tp2",),
)


def built(case: Case, model: Any) -> None:
    import torch
    from megatron.core import parallel_state

    def cut_late(loaded: Loaded) -> None:
        gate, up = ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight")
        box = ((0, case.model.intermediate_size), (0, case.model.hidden_size))
        joined = torch.cat([loaded.read(name, box) for name in (gate, up)])
        part = joined.chunk(case.layout.tp)[parallel_state.get_tensor_model_parallel_rank()].chunk(2)
        loaded.part(gate).copy_(part[0])
        loaded.part(up).copy_(part[1])

    after_loading(cut_late)
