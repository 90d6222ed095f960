"""Writing torch_dist, the format of megatron-core's dist_checkpointing, tensor by tensor.

It is torch.distributed.checkpoint's format (`.metadata` and `.distcp` files) with `common.pt` and `metadata.json` beside it.
megatron-core's own save wants all of a rank's tensors in memory at once, and every rank; here the same plan is made of the
names and shapes alone, and each item is read when it is written.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from validation.case.megatron_folder import RELEASE
from validation.compare.piece import box_shape
from validation.convert.keys import Place, extra_states, places
from validation.convert.megatron_args import common, write_beside
from validation.convert.parts import Part, Stream, Taken, Target, Written, check_cover, grouped, part_bytes, same_dtype
from validation.convert.places import Arrangement
from validation.convert.source import Source
from validation.convert.tensors import Megatron
from validation.convert.unfinished import full_disk, write_json

_SHELL = 1 << 16
"""Bytes that are enough for what torch.save writes around a tensor."""
_LEAST, _MOST = 64 << 20, 2 << 30


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor of the checkpoint, which some rank of the layout holds."""

    place: Place
    taken: Taken

    def item(self) -> WriteItem:
        """It as torch.distributed.checkpoint plans it."""
        box = self.place.box(self.taken.box)
        offsets, sizes = torch.Size(start for start, _ in box), torch.Size(box_shape(box))
        data = TensorWriteData(
            chunk=ChunkStorageMetadata(offsets, sizes),
            properties=TensorProperties(dtype=self.taken.dtype),
            size=torch.Size(self.place.shape),
        )
        return WriteItem(MetadataIndex(self.place.key, offsets), WriteItemType.SHARD, tensor_data=data)


class ToTorchDist(Target):
    """A checkpoint that any layout can load; it is cut as `arrangement` needs it, which then reads without cutting."""

    format = "torch_dist"

    def __init__(
        self, source: Source, megatron: Megatron, arrangement: Arrangement, dtype: torch.dtype | None, beside: Path
    ) -> None:
        self._source, self._megatron, self._arrangement = source, megatron, arrangement
        self._dtype, self._beside = dtype, beside
        chunks = list(self._chunks())
        check_cover((chunk.taken for chunk in chunks), source.parameters)
        limit = part_bytes(sum(chunk.taken.bytes for chunk in chunks), _LEAST, _MOST)
        runs = grouped(((chunk, chunk.taken.bytes) for chunk in chunks), limit)
        self.parts = tuple(
            Part(f"{RELEASE}/__{index}_0.distcp", tuple(run), sum(chunk.taken.bytes for chunk in run), len(run))
            for index, run in enumerate(runs)
        )

    @property
    def tensors(self) -> int:
        """Not the parts that they are cut into."""
        return len({chunk.place.key for part in self.parts for chunk in part.items})

    def _chunks(self) -> Iterator[Chunk]:
        """In the order of the model, each place once: replicas are written by none but the first."""
        found: dict[tuple[str, Any], Chunk] = {}
        where = places(self._megatron)
        for ranks, experts in self._arrangement.cuts():
            for tensor in self._megatron.tensors(ranks):
                if ("{expert}" in tensor.row.megatron) != experts:
                    continue
                dtype = same_dtype(self._source, [held.parameter.name for held in tensor.holdings], self._dtype)
                for held in tensor.holdings:
                    name = held.parameter.name
                    taken = Taken(name, held.box, dtype)
                    found.setdefault((name, held.box), Chunk(where[name], taken))
        order = {name: index for index, name in enumerate(self._source.parameters)}
        yield from sorted(found.values(), key=lambda chunk: (order[chunk.taken.parameter], chunk.taken.box))

    def write(self, part: Part, path: Path, wrote: Callable[[int], None]) -> Written:
        """A file of items, each as torch.save writes it; known is where each begins and how long it is."""
        placed, shells = [], Shells(path.with_name(f"shell-{path.name}"))
        with path.open("wb", buffering=0) as file:
            stream = Stream(file, wrote)
            for chunk in part.items:
                start = stream.size
                before, after = shells.around(box_shape(chunk.taken.box), chunk.taken.dtype)
                stream.write(before)
                stream.put(chunk.taken, self._source)
                stream.write(after)
                placed.append([start, stream.size - start])
            stream.flush()
        return Written(stream.crc32, placed)

    def finish(self, folder: Path, known: Mapping[str, Any]) -> None:
        """The metadata of all items, the common state, and what Megatron-LM and the way back need."""
        below = folder / RELEASE
        plans, results = [], []
        for part in self.parts:
            items = [chunk.item() for chunk in part.items]
            plans.append(SavePlan(items))
            places_ = [_StorageInfo(Path(part.name).name, *placed) for placed in known[part.name]]
            results.append([WriteResult(item.index, info.length, info) for item, info in zip(items, places_, strict=True)])
        objects = self._objects(below)
        plans.append(SavePlan([WriteItem(result.index, WriteItemType.BYTE_IO) for result in objects]))
        _, metadata = create_default_global_save_plan(plans)
        FileSystemWriter(below).finish(metadata, [*results, objects])
        write_json(below / "metadata.json", {"sharded_backend": "torch_dist", "sharded_backend_version": 1} | _COMMON)
        content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
        torch.save(common(self._source, self._arrangement) | {"content_metadata": content}, below / "common.pt")
        write_beside(folder, self._source, self._dtype, self._beside)

    def _objects(self, folder: Path) -> list[WriteResult]:
        """The modules' extra states, which a model asks for: empty, as they are where nothing is computed in fp8."""
        empty = torch.empty(0, dtype=torch.uint8) if self._megatron.implementation == "te" else None
        bytes_ = io.BytesIO()
        torch.save([empty], bytes_)
        name, size, results = f"__{len(self.parts)}_0.distcp", bytes_.tell(), []
        with (folder / name).open("wb") as stream:
            for key in extra_states(self._megatron):
                info = _StorageInfo(name, stream.tell(), size)
                stream.write(bytes_.getbuffer())
                results.append(WriteResult(MetadataIndex(key), size, info))
        return results


class Shells:
    """What torch.save writes before and after the bytes of a tensor, by shape and dtype. `path` is used for a moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[tuple[int, ...], torch.dtype], tuple[bytes, bytes]] = {}

    def around(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[bytes, bytes]:
        """Both parts."""
        if (shape, dtype) not in self._known:
            self._known[shape, dtype] = self._made(shape, dtype)
        return self._known[shape, dtype]

    def _made(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[bytes, bytes]:
        try:
            with full_disk(self._path.parent, _SHELL), torch.serialization.skip_data():
                torch.save(torch.empty(shape, dtype=dtype), self._path)  # nothing touches its memory
            with self._path.open("rb") as file, zipfile.ZipFile(file) as archive:
                (data,) = (entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
                start = _first_byte(file, data)
                file.seek(0)
                before = file.read(start)
                file.seek(start + data.file_size)
                return before, file.read()
        finally:
            self._path.unlink(missing_ok=True)


def _first_byte(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where an entry's data begins: behind its header of 30 bytes, its name, and what pads it."""
    file.seek(entry.header_offset + 26)
    name, padding = (int.from_bytes(file.read(2), "little") for _ in range(2))
    return entry.header_offset + 30 + name + padding


_COMMON = {"common_backend": "torch", "common_backend_version": 1}
