"""Behind the first stage layers are loaded by their number within the stage."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, HF, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="behind the first stage layers are loaded by their number within the stage",
    sources=(
        f"{CORE}/issues/7452",
        f"{HF}/issues/24381",
    ),
    first="weights/model.layers.2.input_layernorm.weight",
    layouts=("pp2",),
    layers=4,
)


def built(case: Case, model: Any) -> None:
    from megatron.core import parallel_state

    def local(loaded: Loaded) -> None:
        if parallel_state.get_pipeline_model_parallel_rank() == 0:
            return
        for name in loaded.names():
            *before, number, rest = name.split(".", 3) if name.startswith("model.layers.") else ("", "", name)
            if number and int(number) < case.model.num_hidden_layers and ("norm" in rest or "self_attn" in rest):
                for part, view in loaded.parts(name):
                    view.copy_(loaded.read(".".join((*before, str(int(number) - 2), rest)), part.box))

    after_loading(local)
