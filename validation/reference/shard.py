"""One safetensors file, read by slice within a bounded memory; and which files a checkpoint folder has."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from validation.case.errors import UsageError
from validation.case.key_names import absent_file
from validation.case.plural import many
from validation.case.strangers import parsed, read_json, shown
from validation.compare.file_bytes import EndsEarly
from validation.compare.mapped import MappedFile
from validation.compare.sliced import CPU, SlicedFile

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""By the names that safetensors gives them; every other dtype is refused."""
_LARGEST_INDEX, _TENSORS = 128 << 20, 1 << 20
"""Bytes of an index, and tensors in it. DeepSeek-V3's has 9 MB and 92 thousand."""
_LARGEST_HEADER = 64 << 20
_VALUES_OF_A_TENSOR = 12
"""In a header: dtype, up to eight dimensions, two offsets, and the names of these."""
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_AGAIN = "download it again"


def safetensors_files(path: Path) -> list[Path]:
    """The safetensors files of a folder: those of its index, else `model.safetensors`, else all there are.

    A file beside these counts if all of its tensors are its own: MTP layers are published so.
    """
    here = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    single = path / SINGLE
    if (path / INDEX).exists():
        named = indexed(path)
        files, keys = [path / name for name in set(named.values())], set(named)
        _refuse_another(path, named)
    elif single in here:
        files, keys = [single], _keys(single)
    else:
        if not here:
            raise UsageError(f"{path}: no safetensors files; save the model with save_pretrained, which writes them")
        absent = absent_file([file.name for file in here])
        if absent is not None:
            raise UsageError(f"{path}: {shown(absent)} is not there, by the names of the other files; {_AGAIN}")
        return here
    return sorted([*files, *(file for file in here if file not in files and _is_taken(file, keys))])


def _is_taken(file: Path, known: set[str]) -> bool:
    """Whether a file beside the model's holds other tensors than they. Raises UsageError for one that holds some of both."""
    own, shared = _keys(file) - known, _keys(file) & known
    if own and shared:
        raise UsageError(
            f"{file}: holds {many(len(shared), 'tensor')} that the model's files hold, such as "
            f"{shown(min(shared))}, and {len(own)} "
            "that they do not; remove the file, or the first from it"
        )
    return bool(own)


def copies(path: Path) -> list[str]:
    """Files that are left out: what they hold is in the model's files, too."""
    taken = {file.name for file in safetensors_files(path)}
    return sorted(file.name for file in path.glob("*.safetensors") if file.is_file() and file.name not in taken)


def _refuse_another(path: Path, named: Mapping[str, str]) -> None:
    """Raises UsageError if transformers would take another file than the index names: it looks for a single one first."""
    if SINGLE not in named.values() and (path / SINGLE).is_file() and _keys(path / SINGLE) & named.keys():
        raise UsageError(
            f"{path}: {SINGLE} and the files of {INDEX} hold the same tensors; transformers reads the first, other programs "
            "the others; keep one of them"
        )


def check_index(path: Path, keys: Mapping[str, str]) -> None:
    """Raises UsageError where the index of a folder names what its files do not hold; `keys` has the file of each key."""
    if not (path / INDEX).exists():
        return
    named = indexed(path)
    absent = [key for key, file in named.items() if keys.get(key) != file]
    if absent:
        raise UsageError(
            f"{path / INDEX}: says that {shown(absent[0])} is in {named[absent[0]]}, which does not hold it ({len(absent)} "
            "such); download the folder again"
        )


def indexed(path: Path) -> dict[str, str]:
    """The file of each tensor, as the index of a folder says. Raises UsageError where one is not there."""
    index = path / INDEX
    said = read_json(index, _LARGEST_INDEX, 2 * _TENSORS, _AGAIN)
    found = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"{index}: not a safetensors index; download it again")
    missing = [name for name in sorted(set(found.values())) if not _is_there(path, name)]
    if missing:
        raise UsageError(f"{index}: names {shown(missing[0])}, which is not there ({len(missing)} missing); download it again")
    return found


def _keys(path: Path) -> set[str]:
    """The keys of a file. Raises UsageError for one that is none."""
    return set(_header(path)) - {"__metadata__"}


def _is_there(folder: Path, name: str) -> bool:
    try:
        return Path(name).name == name and (folder / name).is_file()
    except (OSError, ValueError):  # too long a name, or one with a null byte
        return False


def _header(path: Path) -> dict[str, Any]:
    """What the header says. It is no larger than headers are: the library, and then json, would take many times its size."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            about = os.fstat(number)
            length = int.from_bytes(os.pread(number, 8, 0), "little")
            if not stat.S_ISREG(about.st_mode):
                raise UsageError(f"{path} is no regular file; {_AGAIN}")
            if length > min(_LARGEST_HEADER, about.st_size - 8):
                raise UsageError(
                    f"{path}: not a whole safetensors file (a header of {many(length, 'byte')} in {about.st_size}, "
                    f"and no more than "
                    f"{_LARGEST_HEADER} are read); {_AGAIN}"
                )
            said = parsed(os.pread(number, length, 8), f"{path}: its header", _VALUES_OF_A_TENSOR * _TENSORS // 4, _AGAIN)
            return said if isinstance(said, dict) else {}
        finally:
            os.close(number)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from None


class Shard(SlicedFile):
    """One file of a checkpoint: the same, with a sentence for the user where the file is no good."""

    def __init__(self, path: Path, device: torch.device = CPU) -> None:
        super().__init__(path, device)
        _header(path)
        try:
            # Checks all that the format asks of a header, and that the file is as long as it says.
            with safe_open(str(path), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{self.path}: not a whole safetensors file ({shown(str(error))}); download it again") from None

    def read(self, name: str, index: Sequence[slice] | None = None) -> torch.Tensor:
        """As any file's. Raises UsageError where it has become shorter since it was opened."""
        try:
            return super().read(name, index)
        except (EndsEarly, OSError) as error:
            raise UsageError(f"{error}; download it again") from None

    def described(self) -> dict[str, Described]:
        """What the file says of each of its tensors, nothing of which is read."""
        return {key: Described(self, self.dtype(key), self.shape(key), key) for key in self.keys()}


class MappedShard(Shard, MappedFile):
    """The same of the store, whose files nobody shortens: what is read is a view, which must not be written to."""


@dataclass(frozen=True)
class Described:
    """A tensor of a file, unread: dtype as safetensors writes it (`BF16`), shape, and the file's own key.

    Of a key that holds all experts of a layer it is the part of one expert, from `row` on.
    """

    shard: Shard
    dtype: str
    shape: tuple[int, ...]
    key: str
    expert: int | None = None
    row: int = 0

    def part_of_expert(self, expert: int, row: int, rows: int) -> Described:
        """The rows of one expert of a tensor [experts, rows, columns]."""
        return Described(self.shard, self.dtype, (rows, self.shape[2]), self.key, expert, row)

    def read(self, index: Sequence[slice]) -> torch.Tensor:
        """A copy of a slice."""
        if self.expert is None:
            return self.shard.read(self.key, index)
        rows, columns = index
        moved = slice(self.row + rows.start, self.row + rows.stop)
        return self.shard.read(self.key, (slice(self.expert, self.expert + 1), moved, columns))[0]

    @property
    def start(self) -> int:
        """The first byte in the file."""
        first = self.shard.start(self.key)
        if self.expert is None:
            return first
        return first + (self.expert * self.shard.shape(self.key)[1] + self.row) * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first dimension."""
        return math.prod(self.shape[1:]) * DTYPES[self.dtype].itemsize
