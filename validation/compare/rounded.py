"""Whether a tensor in float32 has passed through half precision: its dtype is right, and its numbers are too few."""

from __future__ import annotations

import torch

_MISSING = {"bfloat16": 0xFFFF, "float16": 0x1FFF}
"""The low bits of float32 that are 0 in every number of a half precision."""
ENOUGH = 8
"""Elements of which chance leaves these bits 0 in all once in 2 to the power of 104."""
_FIRST = 64
_FAR = 0.25
"""Relative error from which on a tensor is another one, as any check of values says."""


def half_of(tensor: torch.Tensor, truth: torch.Tensor) -> str | None:
    """The half precision whose numbers are all that a float32 `tensor` holds; None if it holds another.

    None, too, if the `truth`, of the same shape, holds fewer than ENOUGH others: then nothing has been rounded away. Nor has
    it where the tensor is far from the truth, or of much fewer numbers than that would be if it were rounded: zeros, such as
    memory that upstream has freed, are numbers of every precision.
    """
    bits = tensor.detach().contiguous().view(-1).view(torch.int32)
    widest = _MISSING["float16"]
    if (bits[:_FIRST] & widest).any() or (bits & widest).any():
        return None
    true = truth.detach().to(torch.float32)
    others = true.contiguous().view(-1).view(torch.int32) & widest
    if int(others.count_nonzero()) < ENOUGH:
        return None
    half = "float16" if (bits & _MISSING["bfloat16"]).any() else "bfloat16"
    off = torch.linalg.vector_norm(tensor.detach() - true) / torch.linalg.vector_norm(true)
    few = 2 * tensor.detach().unique().numel() < true.to(getattr(torch, half)).unique().numel()
    return None if few or not off < _FAR else half
