"""Weights of four bits, eight in a word, with a scale for each group of a row, as Kimi-K2.5 is published."""

from __future__ import annotations

import torch

BITS, IN_A_WORD = 4, 8
_OFFSET = 1 << (BITS - 1)
"""What is added to an element before it is packed, so that none is negative."""


def unpacked(words: torch.Tensor) -> torch.Tensor:
    """The elements of words of 32 bits, [rows, words] -> [rows, 8 * words], from -8 to 7: the first in the lowest bits.

    The format is `pack-quantized` of compressed-tensors (compressors/pack_quantized, unpack_from_int32).
    """
    shifts = BITS * torch.arange(IN_A_WORD, dtype=torch.int32)
    return ((words.unsqueeze(-1) >> shifts) & (2 * _OFFSET - 1)).flatten(-2) - _OFFSET


def dequantised(words: torch.Tensor, scales: torch.Tensor, first: int, length: int, group: int) -> torch.Tensor:
    """A part of a matrix in the scales' dtype: each element times the scale of its group.

    `words` and `scales` are those that the part touches; `first` is the column at which it begins, of `length` columns, in
    groups of `group`. The formula is that of compressed-tensors (quantization/lifecycle/forward.py, _dequantize).
    """
    elements = unpacked(words).narrow(1, first % IN_A_WORD, length)
    each = scales.repeat_interleave(group, 1).narrow(1, first % group, length)
    return elements.to(scales.dtype) * each
