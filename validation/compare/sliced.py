"""Reading parts of safetensors files without keeping the whole file resident."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from validation.compare.precision import as_stored

REOPEN_AFTER = 64 << 20
"""Bytes read before a file is closed and opened again. Pages of a mapped file that were touched count as the process's
memory until it is unmapped: this bounds what a rank holds by its slices, not by the file."""


class SlicedFile:
    """A safetensors file whose tensors are read slice by slice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: Any = None
        self._read = 0

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._open().keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return tuple(self._open().get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype of a tensor as the header spells it, such as `BF16`."""
        return str(self._open().get_slice(name).get_dtype())

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """A copy of the tensor, or of the part that `index` takes from it."""
        handle = self._open()
        with as_stored():
            # A scalar has no slices to take.
            tensor: torch.Tensor = handle.get_slice(name)[tuple(index)] if index else handle.get_tensor(name).clone()
        self._read += tensor.numel() * tensor.element_size()
        if self._read >= REOPEN_AFTER:
            self.close()
        return tensor

    def close(self) -> None:
        """Let go of the file; the next read opens it again."""
        self._handle, self._read = None, 0

    def _open(self) -> Any:
        if self._handle is None:
            # The handle's `with` is its only way to be closed by name; dropping the last reference unmaps it as well.
            self._handle = safe_open(self.path, framework="pt")
        return self._handle
