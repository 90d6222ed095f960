"""Reading torch_dist: any box of any parameter, from the chunks that hold it, whatever layout wrote them."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from validation.case.errors import UsageError
from validation.compare.piece import Box, box_shape
from validation.convert.describe import Described
from validation.convert.keys import places
from validation.convert.source import DTYPES, Inventory, Source, refuse_unknown
from validation.convert.tensors import Megatron

OTHERS = ("optimizer.", "rng_state", "rerun_state")
"""What training saves beside the model."""


class TorchDist(Source):
    """A folder that megatron-core's dist_checkpointing can load."""

    format = "torch_dist"

    def __init__(self, path: Path, described: Described, reader: FileSystemReader, tensors: Mapping[str, Any]) -> None:
        super().__init__(path, described)
        self._reader, self._tensors = reader, tensors
        te = any(key.endswith("layer_norm_weight") for key in tensors)
        self._places = places(Megatron(described.model, described.parameters, "te" if te else "local"))
        self._check()
        self._by_first: dict[str, dict[int, list[ChunkStorageMetadata]]] = {}

    @classmethod
    def open(cls, path: Path, described: Described) -> TorchDist:
        """The checkpoint in a folder with `.metadata`. Raises UsageError."""
        reader = FileSystemReader(path)
        try:
            metadata = reader.read_metadata()
        except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
            raise UsageError(f"{path}: .metadata cannot be read ({error}); the checkpoint is not whole") from None
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        files = {info.relative_path for info in reader.storage_data.values()}
        missing = sorted(name for name in files if not (path / name).is_file())
        if missing:
            raise UsageError(f"{path}: {missing[0]} is missing ({len(missing)} files are); the checkpoint is not whole")
        return cls(path, described, reader, metadata.state_dict_metadata)

    def _check(self) -> None:
        """Raises UsageError where the model's tensors are not those of the checkpoint."""
        unknown = [key for key in self._tensors if self._reason(key) is None and not self._known(key)]
        refuse_unknown(self.path, unknown)
        for name, place in self._places.items():
            found = self._tensors.get(place.key)
            if found is None:
                raise UsageError(
                    f"{self.path}: {place.key} is missing ({name}); the checkpoint and config.json must be of the same model"
                )
            padded = len(place.shape) == 2 and found.size[0] > place.shape[0] and "layers" not in place.key
            if tuple(found.size) != place.shape and not padded:
                raise UsageError(f"{self.path}: {place.key} has shape {tuple(found.size)} and config.json needs {place.shape}")
            if found.properties.dtype not in DTYPES.values():
                raise UsageError(f"{self.path}: {place.key} is {found.properties.dtype}, which is not read; save it in bf16")

    def _known(self, key: str) -> bool:
        return any(place.key == key for place in self._places.values())

    def _reason(self, key: str) -> str | None:
        if key.startswith(OTHERS):
            return "of optimizer and random state"
        return "extra states" if "_extra_state" in key else None

    def dtype(self, name: str) -> torch.dtype:
        """As the metadata says."""
        dtype: torch.dtype = self._tensors[self._places[name].key].properties.dtype
        return dtype

    def read(self, name: str, box: Box) -> torch.Tensor:
        """Put together from the chunks that it crosses."""
        key, wanted = self._places[name].key, self._places[name].box(box)
        out = torch.empty(box_shape(box), dtype=self.dtype(name))
        part = ChunkStorageMetadata(torch.Size(start for start, _ in wanted), torch.Size(box_shape(wanted)))
        stored = self._stored(key, wanted)
        items = create_read_items_for_chunk_list(key, stored, [part])
        if sum(item.lengths.numel() for item in items) != out.numel():
            raise UsageError(f"{self.path}: {key} is not whole, {wanted} is in no file")
        try:
            self._reader.read_data(LoadPlan(items), _Into(out)).wait()
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, AssertionError) as error:
            raise UsageError(
                f"{self.path}: {key} cannot be read ({str(error).splitlines()[0]}); the files are damaged"
            ) from None
        return out

    def _stored(self, key: str, wanted: Box) -> TensorStorageMetadata:
        """What is known of the tensor, of its chunks only those of the same expert: there are hundreds."""
        found: TensorStorageMetadata = self._tensors[key]
        if len(wanted) < 3 or wanted[0][1] - wanted[0][0] != 1:
            return found
        if key not in self._by_first:
            by_first: dict[int, list[ChunkStorageMetadata]] = defaultdict(list)
            for chunk in found.chunks:
                for expert in range(chunk.offsets[0], chunk.offsets[0] + chunk.sizes[0]):
                    by_first[expert].append(chunk)
            self._by_first[key] = dict(by_first)
        return TensorStorageMetadata(found.properties, found.size, self._by_first[key].get(wanted[0][0], []))

    def inventory(self) -> Inventory:
        """Tensors of the model are used, what belongs to training is not. Extra states, which are empty, are no tensors."""
        reasons = [self._reason(key) for key in self._tensors if "_extra_state" not in key]
        aside = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons) if reason is not None}
        return Inventory({"weights": reasons.count(None)}, aside)

    def files(self) -> list[Path]:
        """The .distcp files."""
        return sorted({self.path / info.relative_path for info in self._reader.storage_data.values()})


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
