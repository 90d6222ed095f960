"""The tensors of a folder by the headers of its safetensors files: nothing of the tensors themselves is read. No torch."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.key_names import canonical
from validation.case.plural import many
from validation.case.strangers import parsed, read_json, shown

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LARGEST_HEADER, _LARGEST_INDEX, _VALUES = 64 << 20, 128 << 20, 4 << 20
_AGAIN = "download it again"


@dataclass(frozen=True)
class Tensor:
    """One tensor: dtype as safetensors writes it (`BF16`), shape, bytes, and the file that holds it."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    file: str


@dataclass(frozen=True)
class Stored:
    """What a folder holds. `beside` are safetensors files that the index does not name, `missing` those that are not there.

    `misplaced` are tensors that the index has in a file which does not hold them. `mixed` are files beside it that hold some of
    its tensors and some of their own.
    """

    tensors: Mapping[str, Tensor]
    files: tuple[str, ...]
    beside: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    twice: tuple[str, ...] = field(default=())
    misplaced: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """The files' key of each tensor, by the model's name."""
        return {canonical(key): key for key in self.tensors}

    @property
    def two_of_it(self) -> bool:
        """Whether a single file repeats what the index names: transformers takes that file, and not the index."""
        return SINGLE in self.beside and not any(one.file == SINGLE for one in self.tensors.values())

    @property
    def is_one_model(self) -> bool:
        """Whether the files can be read as one model's."""
        return bool(self.tensors) and not (self.missing or self.misplaced or self.mixed or self.twice or self.two_of_it)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def dtypes(self) -> Mapping[str, int]:
        """How many tensors have each dtype, the most first."""
        return dict(Counter(tensor.dtype for tensor in self.tensors.values()).most_common())


def stored(folder: Path) -> Stored:
    """Read the headers of a folder. Raises UsageError for a file that is none."""
    here = sorted(path.name for path in folder.iterdir() if path.is_file())
    held = {name: header(folder / name) for name in here if name.endswith(".safetensors")}
    named = _named(folder / INDEX) if INDEX in here else {}
    listed = set(named.values()) or ({SINGLE} if SINGLE in held else set(held))
    known = set(named) or {key for name in listed for key in held[name]}
    beside = tuple(name for name in held if name not in listed)
    own = {name: bool(held[name].keys() - known) for name in beside}
    shared = {name: bool(held[name].keys() & known) for name in beside}
    tensors: dict[str, Tensor] = {}
    twice: list[str] = []
    for name in (name for name in held if name in listed or not shared[name]):
        twice += tensors.keys() & held[name].keys()
        tensors |= held[name]
    return Stored(
        tensors,
        files=tuple(held),
        beside=beside,
        missing=tuple(sorted(listed - set(held))),
        others=tuple(name for name in here if name.endswith((".bin", ".pt", ".pth", ".gguf"))),
        twice=tuple(sorted(twice)),
        misplaced=tuple(key for key, name in named.items() if name in held and key not in held[name]),
        mixed=tuple(name for name in beside if own[name] and shared[name]),
    )


def _named(index: Path) -> dict[str, str]:
    """The file of each tensor."""
    said = read_json(index, _LARGEST_INDEX, _VALUES, _AGAIN)
    found = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"{index}: not a safetensors index; {_AGAIN}")
    return found


def header(path: Path) -> dict[str, Tensor]:
    """Every tensor that a safetensors file says it has. Raises UsageError for a file that is cut off or none."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(number).st_size
            length = int.from_bytes(os.pread(number, 8, 0), "little")
            if not 0 < length <= min(_LARGEST_HEADER, size - 8):
                raise UsageError(f"{path}: not a whole safetensors file ({many(size, 'byte')}); {_AGAIN}")
            said = parsed(os.pread(number, length, 8), f"{path}: its header", _VALUES, _AGAIN)
        finally:
            os.close(number)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from None
    entries = said.items() if isinstance(said, dict) else ()
    name = path.name
    found = {key: _tensor(entry, path, name) for key, entry in entries if key != "__metadata__"}
    end = max((entry["data_offsets"][1] for key, entry in entries if key != "__metadata__"), default=0)
    if end != size - 8 - length:
        raise UsageError(
            f"{path}: its header names {many(end, 'byte')} of tensors, and {size - 8 - length} are there; {_AGAIN}"
        )
    return found


_shown = cache(shown)
"""Of dtypes, of which a folder has few, and one for each of a hundred thousand tensors."""


def _tensor(entry: Any, path: Path, name: str) -> Tensor:
    try:
        shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, start, stop)
        sound = set(map(type, numbers)) == {int} and min(numbers) >= 0 and start <= stop
        if sound and isinstance(entry["dtype"], str):
            return Tensor(_shown(entry["dtype"]), shape, stop - start, name)
    except (TypeError, KeyError, ValueError):
        pass
    raise UsageError(f"{path}: its header is not that of a safetensors file; {_AGAIN}")


def elements(tensors: Iterable[Tensor]) -> int:
    """Elements of these tensors, as they are stored."""
    return sum(math.prod(tensor.shape) for tensor in tensors)
