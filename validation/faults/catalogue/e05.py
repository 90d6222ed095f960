"""The second expert-parallel rank is loaded with the experts of the first."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import PAI, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="the second expert-parallel rank is loaded with the experts of the first",
    sources=(
        f"{PAI}/pull/479",
        "https://github.com/ROCm/Megatron-LM/issues/67",
    ),
    first="weights/model.layers.{moe}.mlp.experts.gate_proj.weight",
    layouts=("ep2",),
)


def built(case: Case, model: Any) -> None:
    from megatron.core import parallel_state

    def first_again(loaded: Loaded) -> None:
        if parallel_state.get_expert_model_parallel_rank() == 0:
            return
        for name in (name for name in loaded.names() if ".mlp.experts." in name):
            for part, view in loaded.parts(name):
                (start, stop), *rest = part.box
                local = case.model.n_routed_experts // case.layout.ep
                view.copy_(loaded.read(name, ((start - local, stop - local), *rest)))

    after_loading(first_again)
