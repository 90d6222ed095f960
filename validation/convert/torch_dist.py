"""Reading torch_dist: any box of any parameter, from the chunks that hold it, whatever layout wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from validation.candidate.checkpoint.keys import of_training, unwrapped, what_works
from validation.case.errors import UsageError
from validation.case.strangers import shown
from validation.compare.piece import Box, box_shape
from validation.convert.describe import Described
from validation.convert.distcp import Distcp
from validation.convert.source import DTYPES, OF_TRAINING, Inventory, Source, padding, refuse_unknown
from validation.convert.spelt import Spelt, spelt, without_prefixes
from validation.convert.stored import Files, Stored


class TorchDist(Source):
    """A folder that megatron-core's dist_checkpointing can load."""

    format = "torch_dist"

    def __init__(self, path: Path, described: Described, distcp: Distcp, opened: Files) -> None:
        super().__init__(path, described, opened)
        self._distcp, self._tensors = distcp, distcp.tensors
        self._held = spelt(described.model, described.parameters, without_prefixes(self._tensors))
        self._check()

    @classmethod
    def open(cls, path: Path, described: Described) -> TorchDist:
        """The checkpoint in a folder with `.metadata`. Raises UsageError."""
        opened = Files()
        return cls(path, described, Distcp.open(path, opened), opened)

    def _check(self) -> None:
        """Raises UsageError where the model's tensors are not those of the checkpoint."""
        known = {part.key for parts in self._held.values() for part in parts}
        missing = [(name, part.key) for name, parts in self._held.items() for part in parts if part.key not in self._tensors]
        unknown = [key for key in self._tensors if self._reason(key) is None and key not in known]
        if missing:
            name, key = missing[0]
            also = f", and {shown(unknown[0])} has no place in it" if unknown else ""
            raise UsageError(f"{self.path}: {key} is missing ({name}){also}; {what_works(key)}")
        refuse_unknown(self.path, unknown)
        for parts in self._held.values():
            for part in parts:
                self._check_tensor(part)

    def _check_tensor(self, part: Spelt) -> None:
        found = self._tensors[part.key]
        if not isinstance(found, TensorStorageMetadata):
            raise UsageError(f"{self.path}: {part.key} is no tensor but an object; save the checkpoint again")
        size = tuple(found.size)
        # Of layers that share a tensor there are as many as in the model: none is left out without a word.
        wanted = ((self.described.model.num_hidden_layers,) if part.before else ()) + part.shape
        padded = len(wanted) == 2 and "layers" not in part.key and size[0] > wanted[0] and size[1:] == wanted[1:]
        if size != wanted and not padded:
            raise UsageError(f"{self.path}: {part.key} has shape {size} and config.json needs {wanted}")
        if found.properties.dtype not in DTYPES.values():
            raise UsageError(f"{self.path}: {part.key} is {found.properties.dtype}, which is not read; save it in bf16")

    def _reason(self, key: str) -> str | None:
        if of_training(unwrapped(key)):
            return OF_TRAINING
        if "_extra_state" in key:
            return "extra states"
        return None if isinstance(self._tensors[key], TensorStorageMetadata) else "objects that are no tensors"

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the vocabulary is padding."""
        single = [parts[0] for parts in self._held.values() if len(parts) == 1]
        sizes = {part.key: (self._tensors[part.key].size[len(part.before)], part.shape[0]) for part in single}
        return tuple(padding(key, found, wanted) for key, (found, wanted) in sizes.items() if found > wanted)

    def dtype(self, name: str) -> torch.dtype:
        """As the metadata says."""
        dtype: torch.dtype = self._tensors[self._held[name][0].key].properties.dtype
        return dtype

    def stored(self, name: str, box: Box) -> tuple[Sequence[Stored], Box]:
        """In the .distcp files."""
        parts = self._crossed(name, box)
        if parts[0].expert is None:
            part = parts[0].box(box)
            return self._distcp.stored(parts[0].key, part), part
        pieces = ((part, piece) for part in parts for piece in self._distcp.stored(part.key, part.box(box)))
        return [replace(piece, box=part.back(piece.box)) for part, piece in pieces], box

    def read(self, name: str, box: Box) -> torch.Tensor:
        """Put together from the chunks that it crosses."""
        found = [self._distcp.read(part.key, part.box(box)) for part in self._crossed(name, box)]
        return (found[0] if len(found) == 1 else torch.stack(found)).reshape(box_shape(box))

    def _crossed(self, name: str, box: Box) -> list[Spelt]:
        """Those tensors of a parameter that hold some of that part."""
        return [part for part in self._held[name] if part.expert is None or part.expert in range(*box[0])]

    def inventory(self) -> Inventory:
        """Tensors of the model are used, what belongs to training is not. Extra states, which are empty, are no tensors."""
        reasons = [self._reason(key) for key in self._tensors if "_extra_state" not in key]
        aside = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons) if reason is not None}
        return Inventory({"weights": reasons.count(None)}, aside)

    def files(self) -> list[Path]:
        """The .distcp files."""
        return self._distcp.paths()
