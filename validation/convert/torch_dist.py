"""Reading torch_dist: any box of any parameter, from the chunks that hold it, whatever layout wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from validation.candidate.checkpoint.keys import of_training, places
from validation.candidate.checkpoint.tensors import Megatron
from validation.case.errors import UsageError
from validation.compare.piece import Box
from validation.convert.describe import Described
from validation.convert.distcp import Distcp
from validation.convert.source import DTYPES, Inventory, Source, padding, refuse_unknown
from validation.convert.stored import Files, Stored


class TorchDist(Source):
    """A folder that megatron-core's dist_checkpointing can load."""

    format = "torch_dist"

    def __init__(self, path: Path, described: Described, distcp: Distcp, opened: Files) -> None:
        super().__init__(path, described, opened)
        self._distcp, self._tensors = distcp, distcp.tensors
        te = any(key.endswith("layer_norm_weight") for key in self._tensors)
        self._places = places(Megatron(described.model, described.parameters, "te" if te else "local"))
        self._check()

    @classmethod
    def open(cls, path: Path, described: Described) -> TorchDist:
        """The checkpoint in a folder with `.metadata`. Raises UsageError."""
        opened = Files()
        return cls(path, described, Distcp.open(path, opened), opened)

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
            if not isinstance(found, TensorStorageMetadata):
                raise UsageError(f"{self.path}: {place.key} is no tensor but an object; save the checkpoint again")
            padded = len(place.shape) == 2 and found.size[0] > place.shape[0] and "layers" not in place.key
            if tuple(found.size) != place.shape and not padded:
                raise UsageError(f"{self.path}: {place.key} has shape {tuple(found.size)} and config.json needs {place.shape}")
            if found.properties.dtype not in DTYPES.values():
                raise UsageError(f"{self.path}: {place.key} is {found.properties.dtype}, which is not read; save it in bf16")

    def _known(self, key: str) -> bool:
        return any(place.key == key for place in self._places.values())

    def _reason(self, key: str) -> str | None:
        if of_training(key):
            return "of optimizer and random state"
        return "extra states" if "_extra_state" in key else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the vocabulary is padding."""
        sizes = {place.key: (self._tensors[place.key].size[0], place.shape[0]) for place in self._places.values()}
        return tuple(padding(key, found, wanted) for key, (found, wanted) in sizes.items() if found > wanted)

    def dtype(self, name: str) -> torch.dtype:
        """As the metadata says."""
        dtype: torch.dtype = self._tensors[self._places[name].key].properties.dtype
        return dtype

    def stored(self, name: str, box: Box) -> tuple[Sequence[Stored], Box]:
        """In the .distcp files."""
        place = self._places[name]
        return self._distcp.stored(place.key, place.box(box)), place.box(box)

    def read(self, name: str, box: Box) -> torch.Tensor:
        """Put together from the chunks that it crosses."""
        place = self._places[name]
        return self._distcp.read(place.key, place.box(box))

    def inventory(self) -> Inventory:
        """Tensors of the model are used, what belongs to training is not. Extra states, which are empty, are no tensors."""
        reasons = [self._reason(key) for key in self._tensors if "_extra_state" not in key]
        aside = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons) if reason is not None}
        return Inventory({"weights": reasons.count(None)}, aside)

    def files(self) -> list[Path]:
        """The .distcp files."""
        return self._distcp.paths()
