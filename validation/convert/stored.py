"""Where tensors lie in the files of a checkpoint, and reading them there.

Files are read by position into memory that is used again and again. Mapped, each of their pages would cost a fault, and would
count as memory of the process until the file is closed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from validation.case.errors import UsageError
from validation.compare.file_bytes import read_into
from validation.compare.piece import Box, box_shape

_OPEN = 64
"""Files that are held open at a time."""


class Files:
    """Files that are read by position: processes that are forked may share them."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def read_into(self, path: Path, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset` on. Raises UsageError where the file ends before."""
        if read_into(out, self._descriptor(path), offset):
            raise UsageError(f"{path}: ends before its last tensor; the file is not whole")

    def _descriptor(self, path: Path) -> int:
        if path not in self._descriptors:
            if len(self._descriptors) >= _OPEN:
                self.close()
            try:
                self._descriptors[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
        return self._descriptors[path]

    def close(self) -> None:
        """Let go of them; the next read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


@dataclass(frozen=True)
class Run:
    """`bytes` of a file that lie one after the other, from `offset` on."""

    path: Path
    offset: int
    bytes: int
    files: Files

    def read_into(self, skipped: int, out: memoryview) -> None:
        """Fill `out` with what comes after the first `skipped` bytes."""
        self.files.read_into(self.path, self.offset + skipped, out)


@dataclass(frozen=True)
class Stored:
    """The part `box` of a tensor in a file: from byte `offset` on, as a contiguous tensor of its own."""

    path: Path
    offset: int
    box: Box
    dtype: torch.dtype
    files: Files = field(repr=False)

    def run(self, box: Box) -> Run | None:
        """A part of it, if its bytes lie one after the other."""
        span, size = _span(box, self.box), self.dtype.itemsize
        return span and Run(self.path, self.offset + span[0] * size, (span[1] - span[0]) * size, self.files)

    def read(self, box: Box) -> torch.Tensor:
        """A copy of a part of it; of rows that are not wanted whole, all is read and the rest left aside."""
        for widened in (box, (*box[:-1], self.box[-1])):
            run = self.run(widened)
            if run is not None:
                out = torch.empty(box_shape(widened), dtype=self.dtype)
                run.read_into(0, bytes_of(out))
                return _narrow(out, box, widened)
        return torch.cat([self.read(((index, index + 1), *box[1:])) for index in range(*box[0])])


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    view: memoryview = tensor.view(torch.uint8).flatten().numpy().data
    return view


def read(pieces: Iterable[Stored], box: Box, dtype: torch.dtype) -> torch.Tensor | None:
    """A part of a tensor, put together from the pieces that it crosses; None where they are not all of it."""
    found = _parts(pieces, box)
    if not found:
        return None
    if len(found) == 1:
        return found[box].read(box)
    out = torch.empty(box_shape(box), dtype=dtype)
    for part, piece in found.items():
        _narrow(out, part, box).copy_(piece.read(part))
    return out


def runs(pieces: Iterable[Stored], box: Box, dtype: torch.dtype) -> list[Run]:
    """That part of a tensor as runs, one after the other; none where it is not so simple, or not stored in this dtype."""
    found: dict[int, Run] = {}
    for part, piece in _parts(pieces, box).items():
        place, run = _span(part, box), piece.run(part)
        if place is None or run is None or piece.dtype != dtype:
            return []
        found[place[0]] = run
    return [found[start] for start in sorted(found)]


def _parts(pieces: Iterable[Stored], box: Box) -> dict[Box, Stored]:
    """The parts of a box that the pieces have, each once; none where they are not all of it."""
    found: dict[Box, Stored] = {}
    for piece in pieces:
        common = crossing(piece.box, box)
        if common is not None:
            found.setdefault(common, piece)
    whole = sum(math.prod(box_shape(part)) for part in found) == math.prod(box_shape(box))
    return found if whole else {}


def crossing(one: Box, other: Box) -> Box | None:
    """What two boxes have in common."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def _span(inner: Box, outer: Box) -> tuple[int, int] | None:
    """The first element of a part of `outer` and the one behind its last, in row-major order; None if others lie between."""
    first = last = 0
    for (start, stop), (low, high) in zip(inner, outer, strict=True):
        first = first * (high - low) + start - low
        last = last * (high - low) + stop - 1 - low
    return (first, last + 1) if last + 1 - first == math.prod(box_shape(inner)) else None


def _narrow(tensor: torch.Tensor, part: Box, whole: Box) -> torch.Tensor:
    for axis, ((start, stop), (first, _)) in enumerate(zip(part, whole, strict=True)):
        tensor = tensor.narrow(axis, start - first, stop - start)
    return tensor
