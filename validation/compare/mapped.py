"""Reading parts of a small safetensors file of our own: the whole is mapped at once, and what is read is a part of the map.

A rank of a small model reads a thousand pieces of a few kilobytes. Each by itself is a call of the system and a tensor of its
own, which take longer than what is done with it.
"""

from __future__ import annotations

import contextlib
import mmap
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from validation.compare.file_bytes import EndsEarly
from validation.compare.precision import as_stored
from validation.compare.sliced import CPU, SlicedFile, dtype_of

LARGEST = 64 << 20
"""Bytes up to which a file is mapped: its pages count as the process's memory."""
_ALL = slice(None)
_POPULATE_READ = 22
"""Linux's MADV_POPULATE_READ (5.14), which Python has no name for: every page at once, without a fault for each few."""


class MappedFile(SlicedFile):
    """A file that nobody shortens while it is read, as those of the store are: they are renamed and unlinked whole.

    What is handed out is a view that must not be written to: the map is read-only, and the process would be killed.
    """

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        super().__init__(path, device)
        self._bytes: torch.Tensor | None = None
        self._flat: dict[torch.dtype, torch.Tensor] = {}

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """The tensor, or the part that `index` takes from it (a slice of step 1 for each dimension); a view."""
        entry = self._entry(name)
        dtype = dtype_of(entry.dtype)
        if entry.start % dtype.itemsize:
            return super().read(name, index)
        # One view of all bytes: a tensor's, and then that of its part, would be three more calls of torch.
        sizes: list[int] = []
        strides: list[int] = []
        place, step = entry.start // dtype.itemsize, 1
        for size, part in zip(reversed(entry.shape), reversed(index or (_ALL,) * len(entry.shape)), strict=True):
            start, stop, _ = part.indices(size)
            sizes.append(max(0, stop - start))
            strides.append(step)
            place += start * step
            step *= size
        sizes.reverse()
        strides.reverse()
        with as_stored():
            mapped = self._mapped()
            missing = entry.start + step * dtype.itemsize - mapped.shape[0]
            if missing > 0:
                raise EndsEarly.by(missing, self.path)
            flat = self._flat.get(dtype)
            if flat is None:
                flat = self._flat[dtype] = mapped[: len(mapped) // dtype.itemsize * dtype.itemsize].view(dtype)
            return flat.as_strided(sizes, strides, place)

    def close(self) -> None:
        """Let go of the file, which stays mapped for as long as something that was read is there."""
        self._bytes = None
        self._flat.clear()
        super().close()

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
