"""Writing torch_dist, the format of megatron-core's dist_checkpointing, tensor by tensor.

It is torch.distributed.checkpoint's format (`.metadata` and `.distcp` files) with `common.pt` and `metadata.json` beside it.
megatron-core's own save wants all of a rank's tensors in memory at once, and every rank; here the same plan is made of the
names and shapes alone, and each item is read when it is written.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from validation.candidate.checkpoint.keys import Place, extra_states, places
from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.tensors import Megatron
from validation.case.megatron_folder import RELEASE
from validation.compare.piece import Box, box_shape
from validation.convert.megatron_args import common, write_beside
from validation.convert.parts import Part, Stream, Taken, Target, Written, check_cover, grouped, part_bytes, same_dtype
from validation.convert.shell import Shells
from validation.convert.source import Source
from validation.convert.unfinished import write_json

_LEAST, _MOST = 64 << 20, 2 << 30


@dataclass(frozen=True)
class Chunk:
    """A part of a tensor of the checkpoint, which some rank of the layout holds."""

    place: Place
    taken: Taken

    @property
    def box(self) -> Box:
        """The part in the indices of the tensor."""
        return self.place.box(self.taken.box)


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

    def meanwhile(self) -> None:
        """Import what `finish` needs."""
        importlib.import_module("validation.convert.distcp_metadata")

    def finish(self, folder: Path, known: Mapping[str, Any]) -> None:
        """The metadata of all items, the common state, and what Megatron-LM and the way back need."""
        from validation.convert.distcp_metadata import Item, write_metadata

        below = folder / RELEASE
        files = [
            [
                Item(chunk.place.key, Path(part.name).name, offset, length, chunk.place.shape, chunk.box, chunk.taken.dtype)
                for chunk, (offset, length) in zip(part.items, known[part.name], strict=True)
            ]
            for part in self.parts
        ]
        write_metadata(below, [*files, [Item(*found) for found in self._objects(below)]])
        write_json(below / "metadata.json", {"sharded_backend": "torch_dist", "sharded_backend_version": 1} | _COMMON)
        content = {"singleton_local_shards": False, "chained_optim_avoid_prefix": True}
        torch.save(common(self._source, self._arrangement) | {"content_metadata": content}, below / "common.pt")
        write_beside(folder, self._source, self._dtype, self._beside)

    def _objects(self, folder: Path) -> Iterator[tuple[str, str, int, int]]:
        """The modules' extra states, which a model asks for: empty, as they are where nothing is computed in fp8.

        Key, file, offset and length of each.
        """
        empty = torch.empty(0, dtype=torch.uint8) if self._megatron.implementation == "te" else None
        bytes_ = io.BytesIO()
        torch.save([empty], bytes_)
        name = f"__{len(self.parts)}_0.distcp"
        with (folder / name).open("wb") as stream:
            for key in extra_states(self._megatron):
                yield key, name, stream.tell(), bytes_.tell()
                stream.write(bytes_.getbuffer())


_COMMON = {"common_backend": "torch", "common_backend_version": 1}
