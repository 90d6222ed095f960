"""Reading parts of safetensors files without keeping the whole file resident."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from validation.compare.precision import as_stored

REOPEN_AFTER = 64 << 20
"""Bytes of a file that are touched before it is opened anew."""


class SlicedFile:
    """A safetensors file whose tensors are read slice by slice.

    Pages of a mapped file stay in the process's resident memory once they were touched, until the file is closed: it is
    closed and opened anew after every REOPEN_AFTER bytes. Thus a rank's memory is bounded by what it keeps, and not by
    what it has read. Nothing handed out is a view of the file, because a view holds the mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: Any = None
        self._touched = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._mapped: dict[str, torch.Tensor] = {}

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._open().offset_keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        if name not in self._shapes:
            self._shapes[name] = tuple(self._open().get_slice(name).get_shape())
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as the header spells it, such as `BF16`."""
        return str(self._open().get_slice(name).get_dtype())

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """A copy of the tensor, or of the part that `index` takes from it (a slice of step 1 for each dimension)."""
        with as_stored():
            shape = self.shape(name)
            if not shape:
                return self._open().get_tensor(name).clone()
            index = tuple(index) if index else tuple(slice(0, size) for size in shape)
            width = math.prod(shape[1:])
            runs = _runs(index[0], width)
            first = self._rows(name, runs[0], index[1:], width)
            if len(runs) == 1:
                return first
            whole = first.new_empty((index[0].stop - index[0].start, *first.shape[1:]))
            whole[: len(first)] = first
            for rows in runs[1:]:
                whole[rows.start - index[0].start : rows.stop - index[0].start] = self._rows(name, rows, index[1:], width)
            return whole

    def close(self) -> None:
        """Let go of the file; the next read opens it again."""
        self._handle, self._touched = None, 0
        self._mapped.clear()

    def _rows(self, name: str, rows: slice, rest: tuple[slice, ...], width: int) -> torch.Tensor:
        if name not in self._mapped:
            # A view of the file: its pages are read when they are copied below, not here.
            self._mapped[name] = self._open().get_tensor(name)
        part = self._mapped[name][(rows, *rest)].clone()
        # Whichever columns are asked for, the pages of the whole rows are touched.
        self._touched += (rows.stop - rows.start) * width * part.element_size()
        if self._touched >= REOPEN_AFTER:
            self.close()
        return part

    def _open(self) -> Any:
        if self._handle is None:
            self._handle = safe_open(str(self.path), framework="pt", device="cpu")
        return self._handle


def _runs(rows: slice, width: int) -> list[slice]:
    """The rows in runs of at most REOPEN_AFTER bytes, taken as eight bytes an element."""
    step = max(1, REOPEN_AFTER // max(1, 8 * width))
    starts = range(rows.start, max(rows.stop, rows.start + 1), step)
    return [slice(start, min(start + step, rows.stop)) for start in starts]
