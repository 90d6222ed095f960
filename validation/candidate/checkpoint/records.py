"""Whether the records of a checkpoint's metadata can be what torch wrote: every type, every place, every name of a file."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from validation.case.strangers import shown

_BYTES = 1 << 62
"""No file is as large."""
_EMPTY = 1 << 10
"""Chunks without elements that a tensor may have. They cost time and nothing else: torch writes one for a tensor of none."""


class NoMetadata(Exception):
    """Records that are none, with the reason."""


def check(found: object) -> Metadata:
    """The records, if they are. Raises NoMetadata."""
    if not isinstance(found, Metadata):
        raise NoMetadata("holds no torch.distributed.checkpoint.Metadata")
    tensors, storage = (_dict(found, word) for word in ("state_dict_metadata", "storage_data"))
    for key, known in tensors.items():
        if type(key) is not str or not key:
            raise NoMetadata("has a tensor whose name is no text")
        if isinstance(known, TensorStorageMetadata):
            _check_tensor(key, known)
        elif not isinstance(known, BytesStorageMetadata):
            raise NoMetadata(f"says of {shown(key)} neither that it is a tensor nor that it is an object")
    for index, info in storage.items():
        _check_index(index)
        _check_info(index, info)
    return found


def _dict(found: Metadata, word: str) -> dict[Any, Any]:
    value = found.__dict__.get(word)
    if type(value) is not dict:
        raise NoMetadata(f"has no {word}")
    return value


def _check_tensor(key: str, known: TensorStorageMetadata) -> None:
    properties, size, chunks = (known.__dict__.get(word) for word in ("properties", "size", "chunks"))
    sound = isinstance(properties, TensorProperties) and isinstance(properties.__dict__.get("dtype"), torch.dtype)
    if not (sound and isinstance(size, torch.Size) and type(chunks) is list):
        raise NoMetadata(f"has no dtype, size and chunks of {shown(key)}")
    elements = empty = 0
    for chunk in chunks:
        elements += (of_chunk := _elements(key, chunk, size))
        empty += not of_chunk
    if elements > math.prod(size) or empty > _EMPTY:
        raise NoMetadata(f"has more chunks of {shown(key)} than it has elements")


def _elements(key: str, chunk: object, size: torch.Size) -> int:
    given: dict[str, Any] = chunk.__dict__ if isinstance(chunk, ChunkStorageMetadata) else {}
    offsets, sizes = given.get("offsets"), given.get("sizes")
    if not (isinstance(offsets, torch.Size) and isinstance(sizes, torch.Size) and len(offsets) == len(sizes) == len(size)):
        raise NoMetadata(f"has a chunk of {shown(key)} with other dimensions than the tensor")
    if any(first + length > whole for first, length, whole in zip(offsets, sizes, size, strict=True)):
        raise NoMetadata(f"has a chunk of {shown(key)} that reaches beyond the tensor")
    return math.prod(sizes)


def _check_index(index: object) -> None:
    given: dict[str, Any] = index.__dict__ if isinstance(index, MetadataIndex) else {}
    if type(given.get("fqn")) is not str or not isinstance(given.get("offset"), (torch.Size, type(None))):
        raise NoMetadata("has a place in a file of what is no tensor")
    if not isinstance(given.get("index"), (int, type(None))):
        raise NoMetadata("has a place in a file with an index that is no number")


def _check_info(index: MetadataIndex, info: object) -> None:
    given: dict[str, Any] = info.__dict__ if isinstance(info, _StorageInfo) else {}
    name, offset, length, how = (given.get(word) for word in ("relative_path", "offset", "length", "transform_descriptors"))
    if type(name) is not str or not _is_file_name(name):
        raise NoMetadata(f"says that {shown(index.fqn)} is in {shown(name)}, which is no file of the folder")
    if not all(type(number) is int and 0 <= number < _BYTES for number in (offset, length)):
        raise NoMetadata(f"has no place of {shown(index.fqn)} in {shown(name)}")
    if how is not None and not (isinstance(how, (list, tuple)) and all(type(word) is str for word in how)):
        raise NoMetadata(f"has an unknown encoding of {shown(index.fqn)}")
    if how:  # what it becomes nothing bounds, and megatron-core writes none
        raise NoMetadata(f"says that {shown(index.fqn)} is compressed, as megatron-core writes nothing")


def _is_file_name(name: str) -> bool:
    return 0 < len(name) < 256 and not set(name) & {"/", "\\", "\0"} and name not in (".", "..")
