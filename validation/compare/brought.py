"""Whole files of a reference on a GPU, brought there ahead of their use.

A rank of a small model asks for a thousand parts of a few MiB. Each by itself waits for threads and for a buffer; all of them
together come over the bus in half a second, while the rank waits for its turn or makes its model. They come through pinned
memory, in small pieces: while the driver copies a large one from pageable memory, it lets nothing else begin in the process.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from validation.compare import file_bytes
from validation.compare.precision import as_stored

SHARE = 8
"""What the ranks of a case bring is at most this part of a GPU's memory, and of what is free twice as much.

Those of several cases may have theirs there at the same time, and may ask for it in the same moment.
"""
_AT_ONCE = 256 << 20
"""Bytes after which whoever waits for a part is told how far it is."""


class Brought:
    """The bytes of files behind their headers, on one device, in the order in which they were asked for.

    A thread brings them. What does not come, because there is no memory or no file, is read as without this.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._files: dict[Path, _File] = {}

    @property
    def size(self) -> int:
        """Bytes on the device, or on their way."""
        return sum(file.size for file in self._files.values())

    def bring(self, headers: dict[Path, int]) -> None:
        """Begin with these files, whose headers are so long."""
        self._files = {path: _File(path, start) for path, start in headers.items()}
        threading.Thread(target=self._bring, name="brought", daemon=True).start()

    def part(
        self, path: Path, start: int, dtype: torch.dtype, shape: Sequence[int], index: Sequence[slice] | None
    ) -> torch.Tensor | None:
        """A part of the tensor that begins `start` bytes behind the file's first; None where it does not come.

        A view, which must not be written to. Waits until the part is under way.
        """
        file = self._files.get(path)
        stop = start + math.prod(shape) * dtype.itemsize
        if file is None or (data := file.reached(stop)) is None:
            return None
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        own = data[start - file.start : stop - file.start]
        aligned = own if own.data_ptr() % dtype.itemsize == 0 else own.clone()
        whole = aligned.view(dtype).view(tuple(shape))
        return whole[tuple(index)] if index else whole

    def _bring(self) -> None:
        for file in self._files.values():
            try:
                with as_stored(), torch.cuda.stream(self._stream):
                    file.bring(self._device)
            except (OSError, RuntimeError, ValueError):  # no room, or no file: it is read as without this
                file.give_up()


class _File:
    """One of them."""

    def __init__(self, path: Path, start: int) -> None:
        self.path, self.start = path, start
        self.size = path.stat().st_size - start
        self._data: torch.Tensor | None = None
        self._kept: torch.Tensor | None = None
        """What has come of a file that will not come whole: somebody may use it."""
        self._done = 0
        self._gone = False
        self._further = threading.Condition()

    def reached(self, stop: int) -> torch.Tensor | None:
        """The bytes on the device when those before the file's byte `stop` are under way; None if they will not be."""
        if stop > self.start + self.size:  # it ends early
            return None
        with self._further:
            self._further.wait_for(lambda: self._gone or self.start + self._done >= stop)
            return self._data

    def bring(self, device: torch.device) -> None:
        """All of it."""
        data = torch.empty(self.size, dtype=torch.uint8, device=device)
        with self.path.open("rb") as opened:
            for first, last in itertools.pairwise([*range(0, self.size, _AT_ONCE), self.size]):
                file_bytes.read(data[first:last], opened.fileno(), self.start + first, self.path)
                with self._further:
                    self._data, self._done = data, last
                    self._further.notify_all()

    def give_up(self) -> None:
        """It will not come."""
        with self._further:
            self._kept, self._data, self._gone = self._data, None, True
            self.size = 0
            self._further.notify_all()


_brought: list[Brought] = []


def bring(paths: Sequence[Path], device: torch.device, sharing: int) -> None:
    """Begin to bring those files that there are to `device`, which so many ranks share, in this order, if there is room."""
    there = [path.resolve() for path in paths if path.is_file()]
    needed, (free, whole) = sharing * sum(path.stat().st_size for path in there), torch.cuda.mem_get_info(device)
    if SHARE * needed <= whole and SHARE * needed <= 2 * free:
        _brought.append(Brought(device))
        _brought[-1].bring({path: _header(path) for path in there})


def _header(path: Path) -> int:
    """Bytes before the first tensor of a safetensors file: eight with the length of what follows, and that."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def part(
    path: Path, start: int, dtype: torch.dtype, shape: Sequence[int], index: Sequence[slice] | None
) -> torch.Tensor | None:
    """A part of a tensor of a file that was brought; None where it was not."""
    found = (one.part(path, start, dtype, shape, index) for one in _brought)
    return next((tensor for tensor in found if tensor is not None), None)


def size() -> int:
    """Bytes that are on devices, or on their way."""
    return sum(one.size for one in _brought)
