"""Each context-parallel rank weighs the MTP layer's losses by its own tokens and targets.

megatron-core does so from 0.17 on (docs/findings/mtp-targets-counted-per-rank.md); before, it weighs all of them alike.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="context parallel",
    does="each context-parallel rank weighs the MTP layer's losses by its own tokens and targets",
    sources=(f"{CORE}/issues/7452", f"{CORE}/pull/7498"),
    first="layers.2.mtp.loss",
    layouts=("cp2+mtp",),
    needs="cp",
)


def configure(case: Case, config: Any) -> None:
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    weight: list[Any] = [1]

    def counting(sound: Callable[..., Any]) -> Callable[..., Any]:
        def roll(tensor: Any, **keywords: Any) -> Any:
            moved, left = sound(tensor, **keywords)
            if tensor.is_floating_point():  # the loss mask: labels are whole numbers
                own = torch.stack([tensor.sum(), left])
                every = own.clone()
                dist.all_reduce(every, group=parallel_state.get_context_parallel_group())
                weight[0] = own[0] / own[1].clamp(min=1) * every[1] / every[0]
            return moved, left

        return roll

    replace("megatron.core.models.gpt.gpt_model", "roll_tensor", counting)
    scaler: Any = importlib.import_module("megatron.core.transformer.multi_token_prediction").MTPLossAutoScaler
    sound = scaler.apply  # torch's, which every autograd function inherits
    scaler.apply = staticmethod(lambda hidden, losses: sound(hidden, losses * weight[0]))
