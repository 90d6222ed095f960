"""Writing the `.metadata` of torch.distributed.checkpoint, with its own planner and writer.

What is imported here takes most of a second. Whoever writes a checkpoint has it done while other processes write the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from validation.compare.piece import Box, box_shape


@dataclass(frozen=True)
class Item:
    """The bytes of a file that are the part `box` of a tensor of `shape`, or an object where it has none."""

    key: str
    file: str
    offset: int
    length: int
    shape: tuple[int, ...] = ()
    box: Box = ()
    dtype: torch.dtype | None = None

    def planned(self) -> WriteItem:
        """It as torch.distributed.checkpoint plans it."""
        if self.dtype is None:
            return WriteItem(MetadataIndex(self.key), WriteItemType.BYTE_IO)
        offsets, sizes = torch.Size(start for start, _ in self.box), torch.Size(box_shape(self.box))
        data = TensorWriteData(
            chunk=ChunkStorageMetadata(offsets, sizes),
            properties=TensorProperties(dtype=self.dtype),
            size=torch.Size(self.shape),
        )
        return WriteItem(MetadataIndex(self.key, offsets), WriteItemType.SHARD, tensor_data=data)

    def written(self) -> WriteResult:
        """It as torch.distributed.checkpoint notes what was written."""
        return WriteResult(self.planned().index, self.length, _StorageInfo(self.file, self.offset, self.length))


def write_metadata(folder: Path, files: Sequence[Sequence[Item]]) -> None:
    """The metadata of a folder; `files` are the items of each of its files."""
    _, metadata = create_default_global_save_plan([SavePlan([item.planned() for item in file]) for file in files])
    FileSystemWriter(folder).finish(metadata, [[item.written() for item in file] for file in files])
