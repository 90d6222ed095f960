"""A model whose forward pass is a schedule of parts (`overlap_moe_expert_parallel_comm`): where its probes appear then.

megatron-core computes the parts of one micro-batch's layers between the backward passes of another's. It calls no `forward` of
the model, of its layers or of their experts, but the methods that these consist of.
https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/models/common/model_chunk_schedule_plan.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from validation.case.case import Case

Record = Callable[[str, torch.Tensor], torch.Tensor]
"""Records a tensor under the name of its probe, and returns what the model goes on with."""
FIELD = "overlap_moe_expert_parallel_comm"


def overlaps(case: Case) -> bool:
    """Whether micro-batches are computed beside each other."""
    return bool(case.training.effective("model").get(FIELD))


class Plans:
    """The plans of one model chunk, one for each micro-batch.

    `entered` is called for each, and numbers its micro-batch. `at` is called with the number when a part of it begins to
    compute forward, and with None when the part ends: what runs between parts is the backward pass of another micro-batch.
    """

    def __init__(self, chunk: Any, entered: Callable[[], int], at: Callable[[int | None], None]) -> None:
        self._at, self._within = at, False
        build = chunk.build_schedule_plan

        def built(*given: Any, **named: Any) -> Any:
            plan = build(*given, **named)
            number = entered()
            for part in _parts(plan):
                self._watch(part, number)
            return plan

        chunk.build_schedule_plan = built

    def _watch(self, part: Any, number: int) -> None:
        sound = part.forward

        def forward(*given: Any) -> Any:
            del part.forward  # each computes once; or it would keep itself, and what it holds, alive
            self._at(number)
            self._within = True
            try:
                return sound(*given)
            finally:
                self._within = False
                self._at(None)

        part.forward = forward

    def watch_layer(self, layer: Any, output: str, experts: str, record: Record) -> None:
        """A layer's output appears where its residual is added; that of its experts, if `experts` names it, where the shared
        expert is: in a method of its own since 0.16.
        """
        add = layer.mlp_bda

        def adding(*given: Any) -> Callable[..., torch.Tensor]:
            sound = add(*given)
            return lambda *terms: self._recorded(output, sound(*terms), record)

        layer.mlp_bda = adding
        if experts:
            name = "postprocess" if hasattr(layer.mlp, "postprocess") else "combine"
            made = getattr(layer.mlp, name)
            setattr(layer.mlp, name, lambda *given: self._recorded(experts, made(*given), record))

    def watch_losses(self, chunk: Any, record: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """The losses of the tokens are what the last part makes."""
        make = chunk._postprocess

        def made(*given: Any, **named: Any) -> torch.Tensor:
            losses: torch.Tensor = make(*given, **named)
            return record(losses) if self._within else losses

        chunk._postprocess = made

    def _recorded(self, name: str, tensor: torch.Tensor, record: Record) -> torch.Tensor:
        return record(name, tensor) if self._within else tensor


def _parts(plan: Any) -> Iterator[Any]:
    """What computes: before the layers, in each of them, and behind them."""
    layers = (part for index in range(plan.num_layers()) for part in vars(plan.get_layer(index)).values())
    return (part for part in (plan.pre_process, *layers, plan.post_process) if hasattr(part, "chunk_state"))
