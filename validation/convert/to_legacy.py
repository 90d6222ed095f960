"""Writing the legacy format: the file of each rank as torch.save makes it, its tensors filled in one after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.rank_files import RankFile, rank_files, tensors_of, without_data
from validation.candidate.checkpoint.tensors import Megatron, Tensor
from validation.case.megatron_folder import RELEASE
from validation.convert.megatron_args import common, write_beside
from validation.convert.parts import Part, Stream, Taken, Target, Written, check_cover, same_dtype
from validation.convert.shell import first_byte, shell
from validation.convert.source import Source


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: the state dict and name it has there, and what fills it, from its first row on."""

    state: str
    name: str
    tensor: Tensor
    taken: tuple[Taken, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return sum(taken.bytes for taken in self.taken)


class ToLegacy(Target):
    """Files that the ranks of one layout load, each its own."""

    format = "legacy"

    def __init__(
        self, source: Source, megatron: Megatron, arrangement: Arrangement, dtype: torch.dtype | None, beside: Path
    ) -> None:
        self._source, self._megatron, self._arrangement = source, megatron, arrangement
        self._dtype, self._beside = dtype, beside
        self.parts = tuple(self._part(file) for file in rank_files(arrangement.layout))
        check_cover((taken for part in self.parts for item in part.items for taken in item.taken), source.parameters)

    def _part(self, file: RankFile) -> Part:
        items = tuple(self._items(file))
        return Part(f"{RELEASE}/{file.path}", items, sum(item.bytes for item in items), len(items))

    def _items(self, file: RankFile) -> Iterator[Stored]:
        model = self._source.described.model
        for state, name, tensor in tensors_of(self._megatron, self._arrangement, model, file):
            names = [held.parameter.name for held in tensor.holdings]
            dtype = same_dtype(self._source, names, self._dtype)
            yield Stored(state, name, tensor, tuple(Taken(held.parameter.name, held.box, dtype) for held in tensor.holdings))

    def write(self, part: Part, path: Path, wrote: Callable[[int], None]) -> Written:
        """A rank's file as torch.save makes it, with the tensors' bytes in their places."""
        around = path.with_name(f"shell-{path.name}")
        with shell(self._state(part), around, part.bytes) as file, path.open("wb", buffering=0) as raw:
            places, stream = offsets(around), Stream(raw, wrote)
            for item in sorted(part.items, key=lambda item: places[item.state][item.name]):
                file.seek(stream.size)
                stream.write(file.read(places[item.state][item.name] - stream.size))
                for taken in item.taken:
                    stream.put(taken, self._source)
            file.seek(stream.size)
            stream.write(file.read())
            stream.flush()
        return Written(stream.crc32)

    def _state(self, part: Part) -> dict[str, Any]:
        state: dict[str, Any] = common(self._source, self._arrangement)
        for item in part.items:
            named = state.setdefault(item.state, {})
            named[item.name] = torch.empty(item.tensor.shape, dtype=item.taken[0].dtype)
            if self._megatron.extra_state(item.tensor.row):
                module = re.sub(r"\.(layer_norm_)?weight\d*$", "", item.name)
                named[f"{module}._extra_state"] = None
        return state

    def finish(self, folder: Path, known: Mapping[str, Any]) -> None:
        """What Megatron-LM and the way back need."""
        write_beside(folder, self._source, self._dtype, self._beside)


def offsets(path: Path) -> dict[str, dict[str, int]]:
    """Where in the file each tensor of each state dict begins; nothing of them is read."""
    return {
        state: {name: first_byte(tensor) for name, tensor in named.items() if tensor is not None}
        for state, named in without_data(path).items()
        if re.fullmatch(r"model\d*", state)
    }
