"""One safetensors file, read by slice within a bounded memory; and which files a checkpoint folder has."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from validation.case.errors import UsageError

READ_BEFORE_REOPENING = 64 * 2**20
"""Bytes of a file that are touched before it is opened anew."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""By the names that safetensors gives them; every other dtype is refused."""


def safetensors_files(path: Path) -> list[Path]:
    """The safetensors files of a folder: those of its index, else `model.safetensors`, else all there are."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        return [path / name for name in _indexed(index)]
    single = path / "model.safetensors"
    found = [single] if single.is_file() else sorted(path.glob("*.safetensors"))
    if not found:
        raise UsageError(f"{path}: no safetensors files; save the model with save_pretrained, which writes them")
    return found


def _indexed(index: Path) -> list[str]:
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{index}: not a safetensors index; download it again") from None
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise UsageError(f"{index}: names {missing[0]}, which is not there ({len(missing)} missing); download it again")
    return names


class Shard:
    """One safetensors file, held open.

    Pages of a mapped file stay in the process's resident memory once they were touched, until the file is closed: the file
    is closed and opened anew after every READ_BEFORE_REOPENING bytes. Thus a rank's memory is bounded by what it keeps, and
    not by what it has read. Nothing handed out may be a view of the file, because a view holds the mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._touched = 0
        self._file = self._open()

    def _open(self) -> Any:
        try:
            return safe_open(str(self.path), framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{self.path}: not a whole safetensors file ({error}); download it again") from None

    def close(self) -> None:
        """Lets the file and its memory go."""
        self._file.__exit__(None, None, None)

    def described(self) -> dict[str, Described]:
        """What the file says of each of its tensors, nothing of which is read."""
        found = {}
        for key in self._file.offset_keys():
            view = self._file.get_slice(key)
            found[key] = Described(self, view.get_dtype(), tuple(view.get_shape()))
        return found

    def read_into(self, out: torch.Tensor, key: str, slices: tuple[slice, ...], row_bytes: int) -> None:
        """Copies a slice of one tensor to `out`; `row_bytes` are the bytes that one row of the whole tensor takes.

        Rows are read whole, whichever of their columns are asked: the pages between are touched.
        """
        if not slices:
            out.copy_(self._file.get_slice(key)[...])
            return
        rows, rest = slices[0], slices[1:]
        step = max(1, READ_BEFORE_REOPENING // max(1, row_bytes))
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            out[start - rows.start : stop - rows.start].copy_(self._file.get_slice(key)[(slice(start, stop), *rest)])
            self._count((stop - start) * row_bytes)

    def _count(self, touched: int) -> None:
        self._touched += touched
        if self._touched >= READ_BEFORE_REOPENING:
            self.close()
            self._file, self._touched = self._open(), 0


@dataclass(frozen=True)
class Described:
    """A tensor of a file, unread: dtype as safetensors writes it (`BF16`), and shape."""

    shard: Shard
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first dimension."""
        return math.prod(self.shape[1:]) * DTYPES[self.dtype].itemsize
