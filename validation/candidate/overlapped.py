"""A model chunk whose layers are computed in parts, beside the backward pass of another micro-batch: what hooks miss of it.

With overlap_moe_expert_parallel_comm megatron-core makes a plan of the parts of each layer, and calls neither the chunk nor its
layers nor their layers of experts. What these would return appears in methods and functions that the plan calls.

https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/models/gpt/fine_grained_callables.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.moe_layer import MoELayer

from validation.case.case import Case
from validation.case.errors import EnvironmentMissing

Record = Callable[[str, torch.Tensor], torch.Tensor]
"""Takes the name of a probe and its tensor, and returns what the model is to go on with."""


def overlaps(case: Case) -> bool:
    """Whether the case's layers are computed in parts."""
    return bool(case.training.effective("model").get("overlap_moe_expert_parallel_comm"))


class Planned:
    """One chunk that may be computed by a plan. `now` says whether it is: a forward pass alone is computed as ever."""

    def __init__(
        self, chunk: GPTModel, begun: Callable[[], None], record: Record, ended: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """`begun` is called when a micro-batch's plan is made, `ended` with the losses of its tokens.

        Raises EnvironmentMissing if this megatron-core has no such plans, or other ones.
        """
        if not hasattr(chunk, "build_schedule_plan") or not hasattr(MoELayer, "postprocess"):
            raise EnvironmentMissing(
                "model.overlap_moe_expert_parallel_comm=true: the plans of this megatron-core are not known to Plumbline; 0.16 "
                "and newer have known ones"
            )
        self.now = False
        self._record = record
        make, process = chunk.build_schedule_plan, chunk._postprocess

        def seen_make(*args: Any, **kwargs: Any) -> Any:
            self.now = True
            begun()
            return make(*args, **kwargs)

        def seen_process(*args: Any, **kwargs: Any) -> torch.Tensor:
            losses: torch.Tensor = process(*args, **kwargs)
            return ended(losses) if self.now else losses

        chunk.build_schedule_plan, chunk._postprocess = seen_make, seen_process
        chunk.register_forward_pre_hook(self._called)
        for layer in chunk.decoder.layers:
            self._watch(layer, f"layers.{layer.layer_number - 1}")

    def _called(self, module: Any, arguments: Any) -> None:
        """The chunk itself is called: there is no plan."""
        self.now = False

    def _watch(self, layer: Any, prefix: str) -> None:
        """The last that a plan computes of a layer is the sum with the residual; of experts, the sum with the shared ones."""
        join = layer.mlp_bda

        def seen_join(*args: Any) -> Callable[..., torch.Tensor]:
            add = join(*args)
            return lambda *values: self._seen(f"{prefix}.output", add(*values))

        layer.mlp_bda = seen_join
        if not isinstance(layer.mlp, MoELayer):
            return
        process = layer.mlp.postprocess
        layer.mlp.postprocess = lambda *args: self._seen(f"{prefix}.moe.output", process(*args))

    def _seen(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return self._record(name, tensor) if self.now else tensor
