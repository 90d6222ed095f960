"""Writing a HuggingFace folder: safetensors files, written tensor by tensor, with their index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from validation.case.parameters import EXPERTS, Parameter
from validation.compare.piece import whole
from validation.convert.describe import stored_as
from validation.convert.parts import Part, Stream, Taken, Target, Written, check_cover, dtype_of, grouped, part_bytes
from validation.convert.source import Source
from validation.convert.unfinished import write_json
from validation.reference.shard import DTYPES

_WORDS = {dtype: word for word, dtype in DTYPES.items()}
_LEAST, _MOST = 64 << 20, 5_000_000_000
"""transformers cuts at 5 GB, too."""
_SMALL = 64 << 20
"""Bytes up to which a file beside config.json (tokenizer, code, licence) is taken along."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".distcp")
_OURS = ("config.json", "plumbline.json", "latest_checkpointed_iteration.txt", "model.safetensors.index.json")


@dataclass(frozen=True)
class Key:
    """A tensor of the output: its key, its shape, and what it is."""

    key: str
    shape: tuple[int, ...]
    taken: Taken


class ToHuggingFace(Target):
    """A folder as transformers and DeepSeek's own code read it. `copies`: the MTP layers' embedding and head, too."""

    format = "HuggingFace"

    def __init__(self, source: Source, dtype: torch.dtype | None, copies: bool, beside: Path) -> None:
        self._source, self._dtype, self._beside = source, dtype, beside
        keys = list(self._keys(copies))
        check_cover((key.taken for key in keys), source.parameters)
        total = sum(key.taken.bytes for key in keys)
        runs = grouped(((key, key.taken.bytes) for key in keys), part_bytes(total, _LEAST, _MOST))
        self.parts = tuple(
            Part(_name(index, len(runs)), tuple(run), sum(key.taken.bytes for key in run), len(run))
            for index, run in enumerate(runs)
        )

    def _keys(self, copies: bool) -> Iterator[Key]:
        for parameter in self._source.parameters.values():
            yield from self._of(parameter)
        model = self._source.described.model
        head = "model.embed_tokens.weight" if model.tie_word_embeddings else "lm_head.weight"
        for layer in model.mtp_layers if copies else ():
            for key, name in (("embed_tokens.weight", "model.embed_tokens.weight"), ("shared_head.head.weight", head)):
                (copied,) = self._of(self._source.parameters[name])
                yield Key(f"model.layers.{layer}.{key}", copied.shape, copied.taken)

    def _of(self, parameter: Parameter) -> Iterator[Key]:
        dtype, box = dtype_of(self._source, parameter.name, self._dtype), whole(parameter.shape)
        if EXPERTS not in parameter.name:
            yield Key(parameter.name, parameter.shape, Taken(parameter.name, box, dtype))
            return
        for expert, key in enumerate(parameter.keys()):
            yield Key(key, parameter.shape[1:], Taken(parameter.name, ((expert, expert + 1), *box[1:]), dtype))

    def write(self, part: Part, path: Path, wrote: Callable[[int], None]) -> Written:
        """A safetensors file: the length of the header, the header, and the tensors one after the other."""
        # Wider elements first, as the library orders them: each then begins at a multiple of its size.
        items = sorted(part.items, key=lambda item: -item.taken.dtype.itemsize)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for item in items:
            start, end = end, end + item.taken.bytes
            described = {"dtype": _WORDS[item.taken.dtype], "shape": list(item.shape), "data_offsets": [start, end]}
            header[item.key] = described
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb", buffering=0) as file:
            stream = Stream(file, wrote)
            stream.write(len(text).to_bytes(8, "little") + text)
            for item in items:
                stream.put(item.taken, self._source)
            stream.flush()
        return Written(stream.crc32, sorted(item.key for item in items))

    def finish(self, folder: Path, known: Mapping[str, Any]) -> None:
        """The index of several files, config.json, and what lay beside it."""
        if len(self.parts) > 1:
            named = {key: name for name, keys in known.items() for key in keys}
            size = sum(part.bytes for part in self.parts)
            write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": named})
        write_config(folder, self._source, self._dtype)
        copy_beside(self._beside, folder)


def _name(index: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def write_config(folder: Path, source: Source, dtype: torch.dtype | None) -> None:
    """The model's config.json, which says what the weights are now."""
    stored = dtype or (torch.bfloat16 if source.quantised else None)
    word = None if stored is None else str(stored).removeprefix("torch.")
    write_json(folder / "config.json", stored_as(source.described.config, word))


def copy_beside(origin: Path, folder: Path) -> None:
    """Tokenizer, code and licence: the small files beside config.json that are no weights."""
    for path in sorted(origin.iterdir()):
        small = path.is_file() and path.stat().st_size <= _SMALL
        if small and path.name not in _OURS and path.suffix not in _WEIGHTS and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
