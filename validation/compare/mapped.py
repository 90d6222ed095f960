"""Reading parts of a small safetensors file of our own: the whole is mapped at once, and what is read is a part of the map.

A rank of a small model reads a thousand pieces of a few kilobytes. Each by itself is a call of the system and a tensor of its
own, which take longer than what is done with it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from validation.case.plural import many
from validation.compare.precision import as_stored
from validation.compare.sliced import CPU, EndsEarly, SlicedFile, dtype_of

LARGEST = 64 << 20
"""Bytes up to which a file is mapped: its pages count as the process's memory."""
_POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ (5.14), which Python has no name for: every page at once, without a fault for each few."""


class MappedFile(SlicedFile):
    """A file that nobody shortens while it is read, as those of the store are: they are renamed and unlinked whole.

    What is handed out is a view that must not be written to: the map is read-only, and the process would be killed.
    """

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        super().__init__(path, device)
        self._bytes: torch.Tensor | None = None
        self._tensors: dict[str, torch.Tensor] = {}

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """The tensor, or the part that `index` takes from it; a view."""
        with as_stored():
            whole = self._tensors.get(name)
            if whole is None:
                whole = self._tensors[name] = self._whole(name)
            return whole[tuple(index)] if index else whole

    def close(self) -> None:
        """Let go of the file, which stays mapped for as long as something that was read is there."""
        self._bytes = None
        self._tensors.clear()
        super().close()

    def _whole(self, name: str) -> torch.Tensor:
        shape, dtype, start = self.shape(name), dtype_of(self.dtype(name)), self.start(name)
        mapped = self._mapped()
        stop = start + math.prod(shape) * dtype.itemsize
        if stop > len(mapped):
            raise EndsEarly(f"{self.path}: ends {many(stop - len(mapped), 'byte')} before its header says")
        if start % dtype.itemsize:
            return super().read(name)
        return mapped[start:stop].view(dtype).view(shape)

    def _mapped(self) -> torch.Tensor:
        """All bytes of the file."""
        if self._bytes is None:
            everything = mmap.mmap(self._open(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
            with contextlib.suppress(OSError):
                everything.madvise(_POPULATE_READ)
            with warnings.catch_warnings(action="ignore"):  # that the map is read-only
                self._bytes = torch.frombuffer(everything, dtype=torch.uint8)
        return self._bytes


def is_small(path: Path, device: torch.device) -> bool:
    """Whether a file of the store is best mapped: it is, for the CPU, up to LARGEST."""
    return device == CPU and path.stat().st_size <= LARGEST


def opened(path: Path, device: torch.device) -> SlicedFile:
    """A file of the store, read in the way that is fastest for its size; tensors come on `device`."""
    return MappedFile(path) if is_small(path, device) else SlicedFile(path, device)
