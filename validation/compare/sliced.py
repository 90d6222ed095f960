"""Reading parts of safetensors files: the bytes of the part go straight into its tensor, and nothing is mapped.

A mapped file costs a page fault every few pages, in every rank again, and its pages count as the rank's memory once they were
touched. What is read here is in memory once.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from validation.compare import brought, file_bytes
from validation.compare.precision import Unfilled, as_stored

CPU = torch.device("cpu")
AT_ONCE = 64 << 20
"""Bytes that are read besides those asked for, at most (or one row, where that is larger)."""
_WORTH_A_READ, _WORTH_A_COPY = 16 << 10, 4 << 20
"""Bytes in a row from which they are read by themselves, into memory or onto a device.

Shorter runs are picked from what lies around them; a device does that in no time, and each copy onto it takes longer.
"""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header has it; `start` is the place of its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int


class SlicedFile:
    """A safetensors file whose tensors are read slice by slice, onto `device`.

    Memory is bounded by what is handed out, and AT_ONCE. Nothing handed out depends on the file. A file that ends early raises
    EndsEarly, one that is no good otherwise what reading it raises.
    """

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        self.path, self.device = path, device
        self._resolved = path.resolve() if device.type == "cuda" else None
        self._number: int | None = None
        self._entries: dict[str, _Entry] = {}

    def keys(self) -> list[str]:
        """The names of the tensors, in the order of the header."""
        self._open()
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as the header spells it, such as `BF16`."""
        return self._entry(name).dtype

    def start(self, name: str) -> int:
        """The place of a tensor's first byte in the file."""
        return self._entry(name).start

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """The tensor, or the part that `index` takes from it (a slice of step 1 for each dimension)."""
        entry = self._entry(name)
        bounds = [(0, size) for size in entry.shape]
        if index:
            bounds = [part.indices(size)[:2] for part, size in zip(index, entry.shape, strict=True)]
        lengths = [max(0, stop - start) for start, stop in bounds]
        with as_stored():
            if self._resolved is not None:
                there = brought.part(self._resolved, entry.start, dtype_of(entry.dtype), entry.shape, index)
                if there is not None:
                    return there
            found = _room(math.prod(lengths), dtype_of(entry.dtype), self.device)
            if found.numel():
                self._fill(found, entry, bounds)
            return found.view(lengths)

    def close(self) -> None:
        """Let go of the file; the next read opens it again."""
        if self._number is not None:
            self._closing()
            self._number = None

    def _fill(self, found: torch.Tensor, entry: _Entry, bounds: Sequence[tuple[int, int]]) -> None:
        """Read the part into `found`, flat: run after run along one dimension, for each place in those before it."""
        shape, item = entry.shape, found.element_size()
        axis = _axis(shape, bounds, (_WORTH_A_COPY if found.is_cuda else _WORTH_A_READ) // item)
        row = math.prod(shape[axis + 1 :]) * item
        rows = found.view(-1, *(stop - start for start, stop in bounds[axis + 1 :])) if bounds else found
        length = bounds[axis][1] - bounds[axis][0] if bounds else 1
        places = itertools.product(*(range(*bound) for bound in bounds[:axis]))
        for turn, place in enumerate(places):
            first = bounds[axis][0] if bounds else 0
            for dimension, at in enumerate(place):
                first += at * math.prod(shape[dimension + 1 : axis + 1])
            run = rows[turn * length : (turn + 1) * length] if axis else rows
            self._read_rows(run, shape[axis + 1 :], bounds[axis + 1 :], entry.start + first * row)

    def _read_rows(self, rows: torch.Tensor, shape: tuple[int, ...], bounds: Sequence[tuple[int, int]], place: int) -> None:
        """Read rows that begin at `place` and are of `shape` in the file; of each only what is within `bounds`."""
        if rows.shape[1:] == shape:
            self._read(rows.view(-1), place)
            return
        size, within = math.prod(shape), tuple(slice(*bound) for bound in bounds)
        step = max(1, AT_ONCE // (size * rows.element_size()))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            around = _room(len(part) * size, part.dtype, part.device).view(len(part), *shape)
            self._read(around.view(-1), place + start * size * rows.element_size())
            part.copy_(around[(slice(None), *within)])

    def _read(self, flat: torch.Tensor, place: int) -> None:
        file_bytes.read(flat.view(torch.uint8), self._open(), place, self.path)

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            self._open()
        return self._entries[name]

    def _open(self) -> int:
        if self._number is None:
            number = self._number = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self._closing = weakref.finalize(self, os.close, number)
            self._entries = self._entries or _header(number)
        return self._number


def dtype_of(word: str) -> torch.dtype:
    """The dtype that a header spells so."""
    return _DTYPES[word]


def _header(number: int) -> dict[str, _Entry]:
    """What the file says of its tensors: eight bytes with the length of a JSON object, that object, then the tensors."""
    length = int.from_bytes(os.pread(number, 8, 0), "little")
    said: dict[str, Any] = json.loads(os.pread(number, length, 8))
    said.pop("__metadata__", None)
    return {name: _Entry(one["dtype"], tuple(one["shape"]), 8 + length + one["data_offsets"][0]) for name, one in said.items()}


def _room(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory for so many elements, all of which will be written."""
    with Unfilled():
        return torch.empty(count, dtype=dtype, device=device)


def _axis(shape: tuple[int, ...], bounds: Sequence[tuple[int, int]], worth: int) -> int:
    """The dimension along which the part is read in unbroken runs of `worth` elements at least, if there is one."""
    axis = next((axis for axis in reversed(range(len(shape))) if bounds[axis] != (0, shape[axis])), 0)
    while axis and (bounds[axis][1] - bounds[axis][0]) * math.prod(shape[axis + 1 :]) < worth:
        axis -= 1
    return axis
