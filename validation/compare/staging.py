"""Bringing what lies in host memory, or in a file, to a device, fast where it is large."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_STAGED = 8 << 20
"""Bytes below which the driver's own way from pageable memory is as good."""
_BUFFER, _BUFFERS = 16 << 20, 4
_THREADS = 4
"""One core copies host memory at a fifth of what the bus takes."""
_A_THREAD = 1 << 20
"""Bytes that are worth a thread of their own."""


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on `device`; a large one from pageable memory through pinned buffers."""
    if tensor.device == device:
        return tensor
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    if tensor.nbytes < _STAGED or tensor.is_pinned() or not tensor.is_contiguous():
        return tensor.to(device, non_blocking=tensor.is_pinned())
    found = torch.empty_like(tensor, device=device)
    source = tensor.reshape(-1).view(torch.uint8)
    fill(found.reshape(-1).view(torch.uint8), lambda part, start: part.copy_(source[start : start + len(part)]))
    return found


def fill(target: torch.Tensor, read: Callable[[torch.Tensor, int], object]) -> None:
    """Fill a device's flat tensor of bytes; `read` puts the bytes from a place on into the part of a host buffer it is given.

    While the device reads one buffer, the others are filled, each by several threads. When this returns, the device may still
    be reading: what is next on its stream comes after it.
    """
    with torch.cuda.device(target.device):  # else events would be of another device's stream
        _Staging.of(torch.cuda.current_device()).fill(target, read)


class _Staging:
    """Pinned buffers of a device, and the events after which each is free again."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(_BUFFER, dtype=torch.uint8, pin_memory=True) for _ in range(_BUFFERS)]
        self._free = [torch.cuda.Event() for _ in range(_BUFFERS)]
        self._turn = 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="staging")

    @staticmethod
    @functools.cache
    def of(index: int) -> _Staging:
        return _Staging()

    def fill(self, target: torch.Tensor, read: Callable[[torch.Tensor, int], object]) -> None:
        for start in range(0, target.numel(), _BUFFER):
            wanted = target[start : start + _BUFFER]
            buffer, free = self._buffers[self._turn][: len(wanted)], self._free[self._turn]
            self._turn = (self._turn + 1) % _BUFFERS
            free.synchronize()
            parts = buffer.tensor_split(max(1, min(_THREADS, len(buffer) // _A_THREAD)))
            places = [start + part.storage_offset() - buffer.storage_offset() for part in parts]
            if len(parts) == 1:
                read(buffer, start)
            else:
                list(self._pool.map(read, parts, places))
            wanted.copy_(buffer, non_blocking=True)
            free.record()
