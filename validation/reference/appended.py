"""Writing a safetensors file tensor by tensor, none of which is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import _TYPES

from validation.case.plural import many

_WORDS = {dtype: word for word, dtype in _TYPES.items()}
_ROOM = 512
"""Bytes of the header for a tensor: its name, dtype, shape and place."""


class Appended:
    """A file of at most `tensors` tensors; it can be read once it is closed.

    The format has the header first: room is left for it, and what it does not fill is spaces, as the format allows.
    """

    def __init__(self, path: Path, tensors: int) -> None:
        self._file = path.open("wb")
        self._header: dict[str, dict[str, Any]] = {}
        self._room, self._end = -(-tensors * _ROOM // 4096) * 4096, 0
        self._file.seek(8 + self._room)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._write_header()
        self._file.close()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one more tensor."""
        if name in self._header:
            raise ValueError(f"{name} is written twice")
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        self._file.write(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
        place = [self._end, self._end + flat.nbytes]
        self._header[name] = {"dtype": _WORDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        self._end = place[1]

    def _write_header(self) -> None:
        header = json.dumps(self._header, separators=(",", ":")).encode()
        if len(header) > self._room:
            raise ValueError(f"the header takes {many(len(header), 'byte')} and {self._room} were left for it")
        self._file.seek(0, os.SEEK_SET)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))
