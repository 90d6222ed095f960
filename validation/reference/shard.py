"""One safetensors file, read by slice within a bounded memory; and which files a checkpoint folder has."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from validation.case.errors import UsageError
from validation.compare.sliced import CPU, EndsEarly, SlicedFile

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


class Shard(SlicedFile):
    """One file of a checkpoint: the same, with a sentence for the user where the file is no good."""

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        super().__init__(path, device)
        try:
            # Checks all that the format asks of a header, and that the file is as long as it says.
            with safe_open(str(path), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{self.path}: not a whole safetensors file ({error}); download it again") from None

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """As any file's. Raises UsageError where it has become shorter since it was opened."""
        try:
            return super().read(name, index)
        except (EndsEarly, OSError) as error:
            raise UsageError(f"{error}; download it again") from None

    def described(self) -> dict[str, Described]:
        """What the file says of each of its tensors, nothing of which is read."""
        return {key: Described(self, self.dtype(key), self.shape(key)) for key in self.keys()}


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
