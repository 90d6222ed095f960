"""HuggingFace folders as they are published: in shards, with MTP layers, in bf16 or in fp8 with a scale for each block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from validation.case.errors import UsageError
from validation.case.key_names import PACKED, canonical
from validation.case.model import Model
from validation.case.parameters import EXPERTS, Parameter
from validation.case.quantisation import BLOCK, FP8, SCALE_DTYPES
from validation.compare.piece import Box, slices, whole
from validation.convert import int4
from validation.convert.describe import Described, describe
from validation.convert.fp8 import dequantised, touched
from validation.convert.int4 import IN_A_WORD
from validation.convert.source import Inventory, Source, refuse_unknown
from validation.convert.stored import Files, Stored
from validation.reference.checkpoint import HEAD, Checkpoint
from validation.reference.shard import DTYPES, Shard, check_index, copies, safetensors_files
from validation.reference.shard import Described as InFile

SCALE = "_scale_inv"
INT4, _PACKED_SCALE = "I4", "_scale"
_OF_QUANTISED = (SCALE, _PACKED_SCALE, "_shape")
_AS_IT_LIES = {FP8: torch.float8_e4m3fn, INT4: torch.int8}
"""Dtypes in which no weight is written: what is stored so is never copied as it is."""
SCALES, COPIES = "block scales", "copies of embedding and head, equal to the model's"
_COPIES = {"embed_tokens.weight": "model.embed_tokens.weight", "shared_head.head.weight": "lm_head.weight"}
_ROWS = 64 << 20
"""Bytes that are compared at a time."""


class Quantised(Checkpoint):
    """The reference's reader, which takes fp8 as well and knows DeepSeek-V2's parameters."""

    def __init__(self, path: Path, described: Described, shards: list[Shard]) -> None:
        self._described, self.files = described, Files()
        super().__init__(path, described.model, described.layers, described.layers_in_folder, shards)

    def _known(self, model: Model) -> dict[str, Parameter]:
        return self._described.parameters

    def _spelled(self, described: dict[str, InFile]) -> dict[str, InFile]:
        """Of a weight that is packed the weight itself, of as many columns as it has."""
        for key in [key for key in described if key.endswith(PACKED) and len(described[key].shape) == len(BLOCK)]:
            words = described.pop(key)
            rows, columns = words.shape
            described[key.removesuffix(PACKED)] = replace(words, dtype=INT4, shape=(rows, IN_A_WORD * columns))
        return super()._spelled(described)

    def _check_packed(self, key: str, tensor: InFile) -> None:
        scales, order = self._tensors.get(key + _PACKED_SCALE), key + "_g_idx" in self._tensors
        if scales is None or order or key + "_zero_point" in self._tensors:
            how = "in another order" if order else "without a scale" if scales is None else "with zero points"
            raise UsageError(
                f"{self.path}: {key} is packed {how}; symmetric weights of 4 bits with a scale for each group can be read"
            )
        rows, columns = tensor.shape
        fits = (
            len(scales.shape) == len(BLOCK) and scales.shape[0] == rows and scales.shape[1] and columns % scales.shape[1] == 0
        )
        if not fits or scales.dtype not in ("BF16", "F16", "F32"):
            found = f"{scales.dtype} {scales.shape}"
            raise UsageError(f"{self.path}: {key}{_PACKED_SCALE} is {found}, which does not fit {tensor.shape}")

    def _check_dtype(self, key: str, tensor: InFile) -> None:
        if tensor.dtype == INT4:
            self._check_packed(key, tensor)
            return
        scales = self._tensors.get(key + SCALE)
        if tensor.dtype in DTYPES and scales is None:
            return
        if tensor.dtype != FP8 or scales is None:
            how = f"{tensor.dtype} {'with' if scales else 'without'} {key.rpartition('.')[2]}{SCALE}"
            raise UsageError(
                f"{self.path}: {key} is {how}; weights are F64, F32, F16, BF16, or {FP8} with a scale for each block"
            )
        block = self._described.block
        wanted = tuple(math.ceil(size / side) for size, side in zip(tensor.shape, block, strict=False))
        if scales.shape != wanted or scales.dtype not in SCALE_DTYPES:
            raise UsageError(
                f"{self.path}: {key}{SCALE} is {scales.dtype} {scales.shape}, and {tensor.shape} in blocks of {block} needs "
                f"{' or '.join(SCALE_DTYPES)} {wanted}"
            )

    def dtype_of(self, key: str) -> torch.dtype:
        """What a key is read as."""
        stored = self._tensors[key].dtype
        if stored == INT4:
            return DTYPES[self._tensors[key + _PACKED_SCALE].dtype]
        return torch.bfloat16 if stored == FP8 else DTYPES[stored]

    def dtype(self, name: str) -> torch.dtype:
        """What a parameter is read as."""
        return self.dtype_of(self._keys[name][0])

    def _unpacked(self, key: str, part: tuple[slice, ...]) -> torch.Tensor:
        rows, columns = part
        group = self._tensors[key].shape[1] // self._tensors[key + _PACKED_SCALE].shape[1]
        bounds = columns.start, columns.stop
        words = super()._read(key, (rows, touched(bounds, IN_A_WORD)))
        scales = super()._read(key + _PACKED_SCALE, (rows, touched(bounds, group)))
        return self._finite(key, int4.dequantised(words, scales, columns.start, columns.stop - columns.start, group))

    def _read(self, key: str, part: tuple[slice, ...]) -> torch.Tensor:
        if self._tensors[key].dtype == INT4:
            return self._unpacked(key, part)
        if self._tensors[key].dtype != FP8:
            return super()._read(key, part)
        rows, columns = ((bound.start, bound.stop) for bound in part)
        block = self._described.block
        scales = super()._read(key + SCALE, (touched(rows, block[0]), touched(columns, block[1])))
        return self._finite(key, dequantised(super()._read(key, part), scales, (rows[0], columns[0]), block))

    def _finite(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """What was dequantised. Raises UsageError where a number is none: an exponent of E8M0 may be NaN, too."""
        if not bool(torch.isfinite(tensor).all()):
            raise UsageError(
                f"{self.path}: {key} holds NaN or infinite values when it is dequantised; its scales are damaged, "
                "download the folder again"
            )
        return tensor

    def _stored(self, key: str, first: Box = ()) -> Stored:
        """Where a key lies; `first` are the dimensions that a parameter has before it."""
        tensor = self._tensors[key]
        dtype = _AS_IT_LIES.get(tensor.dtype) or DTYPES[tensor.dtype]
        return Stored(tensor.shard.path, tensor.start, (*first, *whole(tensor.shape)), dtype, self.files)

    def stored(self, name: str, box: Box) -> list[Stored]:
        """Where a part of a parameter lies: the experts in it, or all of the parameter."""
        if EXPERTS not in name:
            return [self._stored(self._keys[name][0])]
        return [self._stored(self._keys[name][expert], ((expert, expert + 1),)) for expert in range(*box[0])]

    def part(self, name: str, box: Box) -> torch.Tensor:
        """As `read`; one expert alone is not copied twice."""
        if EXPERTS in name and box[0][1] - box[0][0] == 1:
            return self._read(self._keys[name][box[0][0]], slices(box[1:]))[None]
        return self.read(name, slices(box))

    @cached_property
    def copies(self) -> dict[str, str]:
        """Keys that repeat a parameter of the model, with its name: of the MTP layers, and the head of tied embeddings."""
        mtp = range(self._layers_in_file, self._layers_in_file + self.model.num_nextn_predict_layers)
        named = {f"model.layers.{layer}.{key}": name for layer in mtp for key, name in _COPIES.items()}
        if self.model.tie_word_embeddings:
            named = dict.fromkeys([*named, HEAD], "model.embed_tokens.weight")
        return {key: name for key, name in named.items() if key in self._tensors}

    @cached_property
    def _used(self) -> set[str]:
        return {key for keys in self._keys.values() for key in keys} | self.copies.keys()

    def check_copy(self, key: str, name: str) -> None:
        """Raises UsageError where the copy is not the parameter, bit for bit."""
        shape = self.parameters[name].shape
        if self._tensors[key].shape != shape or self.dtype_of(key) != self.dtype(name):
            raise UsageError(f"{self.path}: {key} is not {name} again, {_shared(key)}")
        step = max(1, _ROWS // (shape[1] * 8))
        for start in range(0, shape[0], step):
            rows = (slice(start, min(start + step, shape[0])), slice(0, shape[1]))
            if not torch.equal(*(found.view(torch.uint8) for found in (self._read(key, rows), self.read(name, rows)))):
                raise UsageError(
                    f"{self.path}: {key} is not {name} again (rows {rows[0].start} to {rows[0].stop} differ), {_shared(key)}"
                )

    def _reason(self, key: str) -> str | None:
        base = next((key.removesuffix(end) for end in _OF_QUANTISED if key.endswith(end)), key)
        if base != key and base in self._tensors:
            return SCALES if base in self._used else super()._reason(base)
        return COPIES if key in self.copies else super()._reason(key)


class HuggingFace(Source):
    """A folder with config.json and safetensors files."""

    format = "HuggingFace"

    def __init__(self, path: Path, described: Described, checkpoint: Quantised) -> None:
        super().__init__(path, described, checkpoint.files)
        self._checkpoint = checkpoint
        self._copies, self._said = checkpoint.copies, tuple[str, ...]()
        refuse_unknown(path, checkpoint.unused())
        for key, name in self._copies.items():
            checkpoint.check_copy(key, name)

    @classmethod
    def open(cls, path: Path, layers: tuple[int, ...] = (), mtp: bool = True) -> HuggingFace:
        """The folder's checkpoint, of these layers, with its MTP layers where it has them. Raises UsageError."""
        described = describe(path, layers, mtp)
        said = [f"{name} holds what the model's files hold: it is left out" for name in copies(path)]
        with ExitStack() as opened:
            shards = [Shard(file) for file in safetensors_files(path)]
            for shard in shards:
                opened.callback(shard.close)
            keys = {key: shard.path.name for shard in shards for key in shard.described()}
            check_index(path, keys)
            if described.model.mtp_layers and not _has_layer(map(canonical, keys), described.layers_in_folder):
                # Published so by those who left the MTP layers out and config.json as it was.
                described = describe(path, layers, mtp=False)
                said.append(f"config.json names MTP layers, and the files hold none: {path.name} is read without")
            found = cls(path, described, Quantised(path, described, shards))
            found._said = tuple(said)
            opened.pop_all()
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether MTP layers are missing that config.json names, and which files are left out."""
        return self._said

    def stored(self, name: str, box: Box) -> tuple[Sequence[Stored], Box]:
        """In the safetensors files; what is fp8 there has that dtype."""
        return self._checkpoint.stored(name, box), box

    def dtype(self, name: str) -> torch.dtype:
        """The file's, bfloat16 for fp8."""
        return self._checkpoint.dtype(name)

    def read(self, name: str, box: Box) -> torch.Tensor:
        """A copy, dequantised where it is fp8."""
        return self._checkpoint.part(name, box)

    def inventory(self) -> Inventory:
        """Weights, scales and copies are used; what belongs to layers not chosen is not."""
        total = len(self._checkpoint.keys())
        aside = dict(self._checkpoint.set_aside)
        used = {what: aside.pop(what, 0) for what in (SCALES, COPIES)}
        return Inventory({"weights": total - sum(used.values()) - sum(aside.values()), **used}, aside)

    @property
    def copies(self) -> bool:
        """As the folder has it."""
        return any(key.startswith("model.layers.") for key in self._copies)

    @property
    def quantised(self) -> bool:
        """As the folder says."""
        return "quantization_config" in self.described.config

    def files(self) -> list[Path]:
        """The safetensors files."""
        return [shard.path for shard in self._checkpoint.shards]

    def close(self) -> None:
        """Lets the files go."""
        self._checkpoint.close()
        super().close()


def _shared(key: str) -> str:
    """Why two tensors must be one, and what works if they are not."""
    if key == HEAD:
        return "and config.json says tie_word_embeddings; with false there both are read"
    return "which Megatron-Core shares with the MTP layer; --no-mtp leaves that layer out"


def _has_layer(keys: Iterable[str], layer: int) -> bool:
    return any(key.startswith(f"model.layers.{layer}.") for key in keys)
