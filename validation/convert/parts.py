"""What is to be written: parts, each a file of its own, and what each takes from the input."""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch

from validation.case.errors import UsageError
from validation.case.parameters import Parameter
from validation.compare.piece import Box, box_shape, uncovered
from validation.convert.checksum import crc32
from validation.convert.sink import Sink
from validation.convert.source import Source
from validation.convert.stored import Run, bytes_of

EXPERT_BIAS = "_bias"
BLOCK_BYTES = 1 << 20
"""Bytes that are read and written at a time: they stay in the processor's cache meanwhile."""


@dataclass(frozen=True)
class Taken:
    """A part of a parameter, and the dtype that it gets."""

    parameter: str
    box: Box
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Its size in the output."""
        return math.prod(box_shape(self.box)) * self.dtype.itemsize

    def _read(self, source: Source, rows: tuple[int, int]) -> torch.Tensor:
        """Some rows of it: `rows` are those of the box's first dimension that is no expert."""
        axis = len(self.box) - len(_one_expert(self.box))
        box = (*self.box[:axis], rows, *self.box[axis + 1 :])
        value = source.read(self.parameter, box)
        if value.dtype == self.dtype:
            return value.contiguous()
        cast = value.to(self.dtype)
        if self.dtype == torch.float16 and bool(torch.isinf(cast).any()) and not bool(torch.isinf(value).any()):
            raise UsageError(f"{self.parameter} holds values above what fp16 can; --dtype bf16 has room for them")
        return cast.contiguous()

    def blocks(self, source: Source) -> Iterable[torch.Tensor]:
        """Its value some rows at a time, one after the other."""
        start, stop = _one_expert(self.box)[0]
        row_bytes = max(1, self.bytes // max(1, stop - start))
        step = max(1, BLOCK_BYTES // row_bytes)
        for row in range(start, stop, step):
            yield self._read(source, (row, min(row + step, stop)))


def _one_expert(box: Box) -> Box:
    """The dimensions of a matrix or vector: without that of experts, of which a box has one."""
    return box[1:] if len(box) == 3 else box


@dataclass(frozen=True)
class Part:
    """One file. `name` is its path below the output folder, `tensors` how many tensors it holds, whole or in part."""

    name: str
    items: tuple[Any, ...]
    bytes: int
    tensors: int


@dataclass(frozen=True)
class Written:
    """A part that was written: its crc32, and what `Target.finish` needs to know of it, for JSON."""

    crc32: int
    known: Any = None


class Stream:
    """A file that is written from its beginning to its end, in blocks of one size, and the crc32 of what is written."""

    def __init__(self, file: RawIOBase, wrote: Callable[[int], None] = lambda size: None) -> None:
        self._sink, self._wrote = Sink(file), wrote
        self._block = memoryview(mmap.mmap(-1, BLOCK_BYTES))
        self._filled = self._written = self.crc32 = 0

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._written + self._filled

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        left = memoryview(data)
        while left:
            room = self._room(len(left))
            room[:], left = left[: len(room)], left[len(room) :]

    def put(self, taken: Taken, source: Source) -> None:
        """Append a tensor: its bytes as they lie in a file, else put together some rows at a time."""
        runs = source.runs(taken.parameter, taken.box, taken.dtype)
        for run in runs:
            self._copy(run)
        for block in () if runs else taken.blocks(source):
            self.write(bytes_of(block))
            self._wrote(block.nbytes)

    def _copy(self, run: Run) -> None:
        done = 0
        while done < run.bytes:
            room = self._room(run.bytes - done)
            run.read_into(done, room)
            done += len(room)
            self._wrote(len(room))

    def _room(self, wanted: int) -> memoryview:
        """Memory for the next bytes, up to as many as are wanted, which the caller fills."""
        if self._filled == len(self._block):
            self.flush()
        start, self._filled = self._filled, min(self._filled + wanted, len(self._block))
        return self._block[start : self._filled]

    def flush(self) -> None:
        """Have all of it in the file."""
        data = self._block[: self._filled]
        self._sink.write(data)
        self.crc32 = crc32(data, self.crc32)
        self._written, self._filled = self._written + self._filled, 0


class Target(ABC):
    """A format that is written. Parts are written in any order, by any process, and `finish` puts them together."""

    format: str
    parts: tuple[Part, ...]
    _source: Source

    def let_go(self) -> None:
        """Close the input's files: of each that was read, some pages count as this process's memory until then."""
        self._source.close()

    @property
    def tensors(self) -> int:
        """How many tensors the reader of the whole will find."""
        return sum(part.tensors for part in self.parts)

    @abstractmethod
    def write(self, part: Part, path: Path, wrote: Callable[[int], None]) -> Written:
        """Write a part to `path`, telling bytes as they go."""

    def meanwhile(self) -> None:  # noqa: B027 - most have nothing to do
        """What may be done while other processes write parts."""

    @abstractmethod
    def finish(self, folder: Path, known: Mapping[str, Any]) -> None:
        """Write what makes the parts (by name, with what was known of each) a checkpoint."""

    def config_folder(self, folder: Path) -> Path:
        """Where config.json goes."""
        return folder


def dtype_of(source: Source, name: str, wanted: torch.dtype | None) -> torch.dtype:
    """What a parameter is written in: as it is, or as `wanted`; the expert bias is never cast."""
    return source.dtype(name) if wanted is None or name.endswith(EXPERT_BIAS) else wanted


def same_dtype(source: Source, names: Sequence[str], wanted: torch.dtype | None) -> torch.dtype:
    """The dtype of a tensor that is several parameters. Raises UsageError where they are of several."""
    found = {dtype_of(source, name, wanted) for name in names}
    if len(found) > 1:
        kinds = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise UsageError(
            f"{source.path}: {' and '.join(names)} are one tensor in Megatron and stored as {kinds}; --dtype bf16 stores "
            "them alike"
        )
    return found.pop()


def check_cover(taken: Iterable[Taken], parameters: Mapping[str, Parameter]) -> None:
    """Raises AssertionError where a parameter is not wholly written: a plan that loses something is never begun."""
    boxes: dict[str, set[Box]] = defaultdict(set)
    for found in taken:
        boxes[found.parameter].add(found.box)
    for name, parameter in parameters.items():
        lost = uncovered(boxes[name], parameter.shape)
        if lost is not None:
            raise AssertionError(f"{name}: {lost} would not be written")


def part_bytes(total: int, least: int, most: int) -> int:
    """How large a file is made: a sixteenth of all, so that processes end together, within limits."""
    return max(least, min(most, total // 16))


def grouped(items: Iterable[tuple[Any, int]], limit: int) -> list[list[Any]]:
    """Items with their sizes in runs of `limit` bytes, in order; one that is larger has a run of its own."""
    runs: list[list[Any]] = []
    filled = limit
    for item, size in items:
        if filled + size > limit and (filled or not runs):
            runs.append([])
            filled = 0
        runs[-1].append(item)
        filled += size
    return runs
