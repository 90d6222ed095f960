"""A recomputed MTP layer is given an input that is put together from other ranks' parts.

Upstream a saved input is split and gathered over the global tensor-parallel group where the layer has another one: each rank
keeps its part of its own input and is given the rest of another replica's. The first forward pass is right. The layer's final
norm is recomputed, too: the gradient behind it is the first to differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="a recomputed MTP layer is given an input that is put together from other ranks' parts",
    sources=(f"{CORE}/issues/7452", f"{CORE}/pull/6760"),
    first="probe_gradients/layers.2.output",
    kind="backward",
    layouts=("dp2+full+mtp",),
    cause="data parallelism",
    needs="dp +full +mtp",
)


def built(case: Case, model: Any) -> None:
    for chunk in model:
        for layer in getattr(getattr(chunk, "mtp", None), "layers", ()):
            layer._proj_and_transformer_layer = _given_parts(layer._proj_and_transformer_layer)


def _given_parts(sound: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def forward(hidden: Any, *rest: Any, **keywords: Any) -> Any:
        again = torch.is_grad_enabled()
        return sound(hidden + (_parts(hidden) - hidden).detach() if again else hidden, *rest, **keywords)

    return forward


def _parts(hidden: Any) -> Any:
    """The first part of the first data-parallel rank's input, the second of the second's, and so on."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    group = parallel_state.get_data_parallel_group()
    held = [torch.empty_like(hidden) for _ in range(dist.get_world_size(group))]
    dist.all_gather(held, hidden.detach().contiguous(), group=group)
    flat = [one.flatten().tensor_split(len(held))[number] for number, one in enumerate(held)]
    return torch.cat(flat).view_as(hidden)
