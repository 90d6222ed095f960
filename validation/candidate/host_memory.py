"""Host memory that tensors pass through on their way between ranks: what the `staged` transport hands to gloo and gets back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from validation.compare.precision import Unfilled

WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.bool: torch.uint8, torch.int16: torch.int32}
"""What a dtype is reduced in: those of 16 bits lose nothing on the way, and gloo has none of these."""
PART = 64 << 20
"""Bytes of a large tensor that are reduced at a time: the next are copied meanwhile."""
_PINNED, _PINNED_IN_PARTS = 256 << 20, 1 << 30
"""Bytes up to which host memory is pinned: torch keeps it for the next collective. Of a tensor in parts all bytes count.

A GPU is brought 55 GB/s from it, and 9.5 from pageable memory (measured on an H200).
"""


def taken(shape: Sequence[int], dtype: torch.dtype, like: Tensor, pinned: bool | None = None) -> Tensor:
    """Host memory, for what comes from the device of `like` or goes there: all of it will be written."""
    if pinned is None:
        pinned = like.is_cuda and math.prod(shape) * dtype.itemsize <= _PINNED
    with Unfilled():
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=pinned)


def copied(tensor: Tensor, pinned: bool | None = None) -> Tensor:
    """A copy in host memory, contiguous. The host waits for the current stream, on which the tensor was made."""
    return taken(tensor.shape, tensor.dtype, tensor, pinned).copy_(tensor.detach())


def as_bytes(tensor: Tensor) -> Tensor:
    """A copy in host memory as a row of bytes."""
    return copied(tensor).reshape(-1).view(torch.uint8)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """A copy of all of them in host memory, one after the other, as a row of bytes."""
    sizes = [size(tensor) for tensor in tensors]
    host = taken((sum(sizes),), torch.uint8, tensors[0])
    for place, tensor in zip(host.split(sizes), tensors, strict=True):
        place.copy_(tensor.detach().contiguous().reshape(-1).view(torch.uint8))
    return host


def size(tensor: Tensor) -> int:
    """Its bytes."""
    return tensor.numel() * tensor.element_size()


def room(tensor: Tensor) -> Tensor:
    """Host memory for the bytes of a tensor that is going to be received."""
    return taken((size(tensor),), torch.uint8, tensor)


def put(tensor: Tensor, host: Tensor) -> None:
    """Write into a tensor as a collective does, unseen by autograd: it may be a leaf, or be saved for a backward pass."""
    whole = host if host.storage_offset() % tensor.element_size() == 0 else host.clone()  # parts of several dtypes
    tensor.data.copy_(whole.view(tensor.dtype).view(tensor.shape))


def put_all(tensors: Iterable[Tensor], hosts: Iterable[Tensor]) -> None:
    """The same for several."""
    for tensor, host in zip(tensors, hosts, strict=True):
        put(tensor, host)


def widened(tensor: Tensor, pinned: bool | None = None) -> Tensor:
    """A copy in host memory, in the dtype that it is reduced in."""
    host = copied(tensor, pinned)
    return host.to(WIDER.get(tensor.dtype, tensor.dtype))


def in_parts(tensor: Tensor) -> Iterator[Tensor]:
    """Copies as `widened` makes them of a tensor's parts, PART bytes each at most, in order: one, if it is small.

    Where they end depends on the shape and the dtype alone, and so on every rank alike.
    """
    if size(tensor) <= PART:
        yield widened(tensor)
        return
    pinned = tensor.is_cuda and size(tensor) <= _PINNED_IN_PARTS
    for part in tensor.detach().reshape(-1).split(PART // tensor.element_size()):
        yield widened(part, pinned)


def reserve(size: int) -> None:
    """Pin host memory now for a tensor of so many bytes that will be copied from a GPU in parts; torch keeps it."""
    if size <= _PINNED_IN_PARTS:
        parts = [PART] * (size // PART) + [size % PART] * (size % PART > 0)
        held = [taken((part,), torch.uint8, torch.empty(0), pinned=True) for part in parts]
        del held  # all at once: each would else be the one before


def put_parts(tensor: Tensor, hosts: Sequence[Tensor]) -> None:
    """Write what has become of these copies into the tensor, unseen by autograd."""
    if len(hosts) == 1:
        tensor.data.copy_(hosts[0])
    elif tensor.is_contiguous():
        for part, host in zip(tensor.data.view(-1).split([len(host) for host in hosts]), hosts, strict=True):
            part.copy_(host)
    else:
        tensor.data.copy_(torch.cat(list(hosts)).view(tensor.shape))
