"""A step whose gradients hold an infinity: megatron-core must skip it, on every rank, and leave everything as it was."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from validation.candidate.load import Held
from validation.candidate.optimizer import Optimizer


@torch.no_grad()
def is_skipped(wrapped: Sequence[DistributedDataParallel], held: Held, optimizer: Optimizer) -> bool:
    """Whether the optimizer skips the gradients that are there with one element made infinite, on the last stage alone.

    The gradients are there again behind it, as the next backward pass
    would leave them: scaled by what the loss is multiplied with then.
    """
    buffers = [buffer.grad_data for chunk in wrapped for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)]
    kept, scale = [buffer.clone() for buffer in buffers], optimizer.loss_scale
    _spoil(held)
    skipped = not optimizer.try_step()
    for buffer, gradients in zip(buffers, kept, strict=True):
        buffer.copy_(gradients * (optimizer.loss_scale / scale))
    return skipped


def _spoil(held: Held) -> None:
    """The first element of the final norm's gradient, which every rank of the last stage holds."""
    for tensor, parts in held:
        for part in parts:
            if part.parameter.name == "model.norm.weight":
                gradient: torch.Tensor = tensor.main_grad  # type: ignore[attr-defined]
                part.of(gradient)[0] = math.inf
