"""Bringing what lies in host memory, or in a file, to a device, fast where it is large."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait

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


def _read_by(pool: Executor, buffer: torch.Tensor, start: int, read: Callable[[torch.Tensor, int], object]) -> None:
    """Have a pool's threads read the bytes from a place on into a buffer.

    All of them have ended then, also if one has failed: the buffer is somebody else's next.
    """
    parts = buffer.tensor_split(max(1, min(_THREADS, len(buffer) // _A_THREAD)))
    if len(parts) == 1:
        read(buffer, start)
        return
    offsets = [int(part.storage_offset() - buffer.storage_offset()) for part in parts]
    reading = [pool.submit(read, part, start + offset) for part, offset in zip(parts, offsets, strict=True)]
    wait(reading)
    for one in reading:
        one.result()


_MAKING = threading.Lock()


class _Staging:
    """Pinned buffers of a device, and the events after which each is free again. Several threads may fill by them."""

    def __init__(self) -> None:
        self._buffers = [torch.empty(_BUFFER, dtype=torch.uint8, pin_memory=True) for _ in range(_BUFFERS)]
        self._free = [torch.cuda.Event() for _ in range(_BUFFERS)]
        self._choosing, self._in_use = threading.Lock(), [threading.Lock() for _ in range(_BUFFERS)]
        self._turn = 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="staging")

    @classmethod
    def of(cls, index: int) -> _Staging:
        """That of a device, which whoever asks first makes."""
        with _MAKING:
            return cls._of(index)

    @staticmethod
    @functools.cache
    def _of(index: int) -> _Staging:
        return _Staging()

    def fill(self, target: torch.Tensor, read: Callable[[torch.Tensor, int], object]) -> None:
        for start in range(0, target.numel(), _BUFFER):
            wanted = target[start : start + _BUFFER]
            with self._own() as turn:
                buffer, free = self._buffers[turn][: len(wanted)], self._free[turn]
                free.synchronize()
                _read_by(self._pool, buffer, start, read)
                wanted.copy_(buffer, non_blocking=True)
                free.record()

    @contextlib.contextmanager
    def _own(self) -> Iterator[int]:
        """The number of the next buffer, which is this thread's within it."""
        with self._choosing:
            turn = self._turn
            self._turn = (turn + 1) % _BUFFERS
        with self._in_use[turn]:
            yield turn
