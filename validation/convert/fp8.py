"""Weights in fp8 with a scale for each block, as DeepSeek-V3 is published."""

from __future__ import annotations

import torch


def dequantised(quantised: torch.Tensor, scales: torch.Tensor, first: tuple[int, int], block: tuple[int, int]) -> torch.Tensor:
    """A part of a matrix in bfloat16: each element in float32, times the scale of its block, then rounded.

    `first` are the row and the column of the matrix at which the part begins; `scales` are those of the blocks that it
    touches. The formula is that of DeepSeek-V3's own inference/fp8_cast_bf16.py (weight_dequant in kernel.py).
    """
    product = quantised.to(torch.float32)
    columns = _stretched(scales.to(torch.float32), 1, first[1] % block[1], product.shape[1], block[1])
    start = 0
    for row in range(scales.shape[0]):
        stop = min(product.shape[0], (row + 1) * block[0] - first[0] % block[0])
        product[start:stop] *= columns[row]
        start = stop
    return product.to(torch.bfloat16)


def _stretched(scales: torch.Tensor, axis: int, skipped: int, length: int, size: int) -> torch.Tensor:
    """Each scale as often as its block has elements along the axis within the part."""
    return scales.repeat_interleave(size, axis).narrow(axis, skipped, length)


def touched(part: tuple[int, int], size: int) -> slice:
    """The blocks of `size` elements that a range of elements touches."""
    return slice(part[0] // size, -(-part[1] // size))
