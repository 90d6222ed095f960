"""The `.distcp` files of torch.distributed.checkpoint, read by what `.metadata` says of them.

torch.save made each of their items. Where it put a tensor's bytes torch.load says without reading them; they are then read
from there. What is not so plain, such as a tensor whose rows are columns in memory, torch's own reader reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from validation.candidate.checkpoint.archive import loaded_item, within_limits
from validation.candidate.checkpoint.metadata import check_files, read_metadata
from validation.case.errors import UsageError
from validation.case.strangers import shown
from validation.compare.piece import Box, box_shape
from validation.convert.shell import first_byte
from validation.convert.stored import Files, Stored, crossing, read


class Distcp:
    """A folder of such files. `tensors` is what is known of each by its key."""

    def __init__(self, path: Path, reader: FileSystemReader, tensors: Mapping[str, Any], files: Files) -> None:
        self.path, self.tensors = path, tensors
        self._reader, self._files = reader, files
        self._items: dict[MetadataIndex, Stored | None] = {}
        self._heads: dict[tuple[torch.Size, torch.dtype, int], bytes] = {}
        self._by_first: dict[str, dict[int, list[ChunkStorageMetadata]]] = {}

    @classmethod
    def open(cls, path: Path, files: Files) -> Distcp:
        """The files of a folder with `.metadata`. Raises UsageError."""
        reader = FileSystemReader(path)
        metadata = read_metadata(path)
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        check_files(path, metadata)
        return cls(path, reader, metadata.state_dict_metadata, files)

    def paths(self) -> list[Path]:
        """The files."""
        return sorted({self.path / info.relative_path for info in self._reader.storage_data.values()})

    def read(self, key: str, box: Box) -> torch.Tensor:
        """A part of a tensor, put together from the chunks that it crosses."""
        found = read(self.stored(key, box), box, self.tensors[key].properties.dtype)
        return self._by_torch(key, box) if found is None else found

    def stored(self, key: str, box: Box) -> Sequence[Stored]:
        """Where the bytes of that part lie, as far as torch.save laid them down as they are."""
        crossed = [chunk for chunk in self._chunks(key, box) if crossing(_box(chunk), box)]
        items = (self._item(key, chunk) for chunk in crossed)
        return [item for item in items if item is not None]

    def _item(self, key: str, chunk: ChunkStorageMetadata) -> Stored | None:
        index = MetadataIndex(key, chunk.offsets)
        if index not in self._items:
            self._items[index] = self._found(index, chunk)
        return self._items[index]

    def _found(self, index: MetadataIndex, chunk: ChunkStorageMetadata) -> Stored | None:
        info = self._reader.storage_data.get(index)
        if info is None:
            raise UsageError(f"{self.path}: .metadata does not say where {shown(index.fqn)} is; the checkpoint is not whole")
        path, dtype = self.path / info.relative_path, self.tensors[index.fqn].properties.dtype
        # Items of one kind begin alike, up to their tensors' bytes: torch.load is asked once for each kind.
        kind = (chunk.sizes, dtype, info.length)
        head = self._heads.get(kind)
        if head is None or self._bytes(path, info.offset, len(head)) != head:
            first = self._first_byte(path, info, kind[:2])
            if first is None:
                return None
            head = self._heads[kind] = self._bytes(path, info.offset, first)
        return Stored(path, info.offset + len(head), _box(chunk), dtype, self._files)

    def _first_byte(self, path: Path, info: Any, kind: tuple[torch.Size, torch.dtype]) -> int | None:
        """Where the tensor's bytes begin in an item of this shape and dtype; None where that is not so plain."""
        try:
            with path.open("rb") as file:
                tensor = loaded_item(self._reader._slice_file(file, info), map_location="meta")
            first = first_byte(tensor)
        except Exception:  # whatever torch says of what anybody may have written; its own reader is asked next
            return None
        return first if tensor.is_contiguous() and (tensor.shape, tensor.dtype) == kind else None

    def _bytes(self, path: Path, offset: int, count: int) -> bytes:
        found = bytearray(count)
        self._files.read_into(path, offset, memoryview(found))
        return bytes(found)

    def _by_torch(self, key: str, box: Box) -> torch.Tensor:
        known: TensorStorageMetadata = self.tensors[key]
        out = torch.empty(box_shape(box), dtype=known.properties.dtype)
        part = ChunkStorageMetadata(torch.Size(start for start, _ in box), torch.Size(box_shape(box)))
        stored = TensorStorageMetadata(known.properties, known.size, self._chunks(key, box))
        items = create_read_items_for_chunk_list(key, stored, [part])
        if sum(item.lengths.numel() for item in items) != out.numel():
            raise UsageError(f"{self.path}: {key} is not whole, {box} is in no file")
        try:
            with within_limits():
                self._reader.read_data(LoadPlan(items), _Into(out)).wait()
        except Exception as error:  # the same
            raise UsageError(f"{self.path}: {key} cannot be read ({type(error).__name__}); the files are damaged") from None
        return out

    def _chunks(self, key: str, box: Box) -> list[ChunkStorageMetadata]:
        """Those of the same expert, where the part is of one: there are hundreds."""
        known: TensorStorageMetadata = self.tensors[key]
        if len(box) < 3 or box[0][1] - box[0][0] != 1:
            return known.chunks
        if key not in self._by_first:
            by_first: dict[int, list[ChunkStorageMetadata]] = defaultdict(list)
            for chunk in known.chunks:
                for expert in range(*_box(chunk)[0]):
                    by_first[expert].append(chunk)
            self._by_first[key] = dict(by_first)
        return self._by_first[key].get(box[0][0], [])


def _box(chunk: ChunkStorageMetadata) -> Box:
    return tuple((start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True))


class _Into(DefaultLoadPlanner):
    """Puts what is read into one tensor."""

    def __init__(self, out: torch.Tensor) -> None:
        super().__init__()
        self._out = out

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """The part of it that the item is for."""
        part = self._out
        for axis, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            part = part.narrow(axis, offset, length)
        return part
