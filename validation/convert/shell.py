"""What torch.save writes around the bytes of tensors: they are then streamed to their places, and are never in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from validation.convert.unfinished import full_disk

_NEEDED = 1 << 16
"""Bytes that the shell of a tensor takes at most."""


@contextlib.contextmanager
def shell(state: Any, path: Path, needed: int = _NEEDED) -> Iterator[IO[bytes]]:
    """The file that torch.save makes, with holes where tensors are. At `path` it is for a moment, taking up to `needed` bytes.

    The tensors may be as large as they like: nothing touches their memory.
    """
    try:
        with full_disk(path.parent, needed), torch.serialization.skip_data():
            torch.save(state, path)
        with path.open("rb") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def first_byte(unread: torch.Tensor) -> int:
    """Where in its file the bytes of a tensor begin that torch.load read without its data, to the meta device.

    Raises ValueError where torch does not know: the file is no zip archive, as it was before torch 1.6.
    """
    begin: Any = unread.untyped_storage()._checkpoint_offset
    if begin is None:
        raise ValueError("it is of the format before torch 1.6; load and save it again")
    return int(begin + unread.storage_offset() * unread.element_size())


class Shells:
    """The shells of tensors that are saved one by one, by shape and dtype. `path` is used for a moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[tuple[int, ...], torch.dtype], tuple[bytes, bytes]] = {}

    def around(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[bytes, bytes]:
        """What comes before the tensor's bytes, and what after them."""
        if (shape, dtype) not in self._known:
            tensor = torch.empty(shape, dtype=dtype)
            with shell(tensor, self._path) as file:
                start = first_byte(torch.load(file, map_location="meta", weights_only=True))
                file.seek(0)
                before = file.read(start)
                file.seek(start + tensor.nbytes)
                self._known[shape, dtype] = before, file.read()
        return self._known[shape, dtype]
