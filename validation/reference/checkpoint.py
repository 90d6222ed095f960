"""HuggingFace weights, read by slice from safetensors files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from validation.case import tree
from validation.case.errors import UsageError
from validation.case.folder import model_from_folder
from validation.case.key_names import GATE_AND_UP, VISION, canonical, fused_experts, hint
from validation.case.model import Model
from validation.case.parameters import EXPERTS, Parameter, parameters
from validation.case.plural import many
from validation.compare.mapped import is_small
from validation.compare.precision import as_stored
from validation.compare.sliced import AT_ONCE, CPU
from validation.reference.shard import DTYPES, Described, MappedShard, Shard, check_index, safetensors_files

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
MTP, NOT_CHOSEN, INV_FREQ = "multi-token prediction layers", "layers not chosen", "rotary_emb.inv_freq"
PICTURES, TIED = "vision tower", "the head, which is the embedding again"
HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
"""Reasons why a key of the file is set aside."""


_OF_EXPERTS = 3
"""Dimensions of a tensor that holds the experts of a layer."""


class Checkpoint:
    """The weights of a model, by the names of validation.case.parameters.

    `layers` renumbers: the model's layer j is the file's layer layers[j]; its MTP layers follow the file's last. Everything
    that can be wrong with the files, other than the values themselves (see `verify`), is said when they are opened.
    """

    def __init__(self, path: Path, model: Model, layers: tuple[int, ...], layers_in_file: int, shards: list[Shard]) -> None:
        self.path, self.model, self.shards = path, model, shards
        self.parameters = self._known(model)
        mtp = range(layers_in_file, layers_in_file + model.num_nextn_predict_layers)
        self._layers = (*(layers or range(model.num_hidden_layers)), *mtp)
        self._layers_in_file = layers_in_file
        self._keys = {name: _keys_in_file(parameter, self._layers) for name, parameter in self.parameters.items()}
        self._tensors: dict[str, Described] = {}
        for shard in shards:
            self._add(shard)
        self._check()

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: Model | None = None,
        layers: tuple[int, ...] = (),
        device: torch.device = CPU,
        stored: bool = False,
    ) -> Checkpoint:
        """The checkpoint in a folder, or in one safetensors file if `model` says what it holds. Raises UsageError.

        A `model` that is given has as many layers as are chosen. Tensors are read onto `device`. Small files of the store are
        mapped if it is said to be `stored`: what is read may be a view then, which must not be written to.
        """
        path = Path(path)
        if path.is_file():
            in_file = max(layers) + 1 if layers else (model.num_hidden_layers if model else 0)
            files = [path]
        else:
            in_file = model_from_folder(path).num_hidden_layers
            files = safetensors_files(path)
        if model is None and path.is_file():
            raise UsageError(f"{path}: a safetensors file alone does not say what model it is; name its folder instead")
        model = model or model_from_folder(path, layers)
        if layers and len(layers) != model.num_hidden_layers:
            raise UsageError(
                f"{path}: {many(len(layers), 'layer was', 'layers were')} chosen for a model of "
                f"{model.num_hidden_layers}; give as many"
            )
        with ExitStack() as opened:
            shards = [_opened(opened, file, device, stored) for file in files]
            if path.is_dir():
                check_index(path, {key: shard.path.name for shard in shards for key in shard.keys()})  # noqa: SIM118
            found = cls(path, model, layers, in_file, shards)
            opened.pop_all()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets the files go."""
        for shard in self.shards:
            shard.close()

    def keys(self) -> list[str]:
        """Every key of the files, in their own numbering."""
        return sorted(self._tensors)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a parameter is stored."""
        return DTYPES[self._tensors[self._keys[name][0]].dtype]

    def read(self, name: str, slices: tuple[slice, ...] | None = None) -> torch.Tensor:
        """A copy of a slice of a parameter, in the file's dtype; of the whole for None.

        One slice per dimension, each of step 1. The first dimension of a routed parameter is the expert.
        """
        parameter = self.parameters[name]
        bounds = _bounds(parameter, slices)
        if EXPERTS not in name:
            return self._read(self._keys[name][0], bounds)
        with as_stored():
            shape = [bound.stop - bound.start for bound in bounds]
            out = torch.empty(shape, dtype=self.dtype(name), device=self.shards[0].device)
            for place, key in enumerate(self._keys[name][bounds[0]]):
                out[place] = self._read(key, bounds[1:])
        return out

    def unused(self) -> list[str]:
        """Keys of the files that no parameter of the model takes, those set aside left out."""
        return [key for key in self._left() if self._reason(key) is None]

    @property
    def set_aside(self) -> Mapping[str, int]:
        """How many keys are not used for a reason, by reason."""
        reasons = (self._reason(key) for key in self._left())
        return dict(Counter(reason for reason in reasons if reason is not None))

    def pieces(self, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors of a parameter, one per expert where it has them, a few rows at a time so that memory stays bounded."""
        for key in self._keys[name]:
            tensor = self._tensors[key]
            step = max(1, AT_ONCE // max(1, tensor.row_bytes))
            for start in range(0, tensor.shape[0], step):
                rows = slice(start, min(start + step, tensor.shape[0]))
                yield key, self._read(key, (rows, *(slice(0, size) for size in tensor.shape[1:])))

    def copy_of_embedding(self) -> bool | None:
        """Whether the head of tied embeddings, where the files have one, is the embedding again."""
        head = self._tensors.get(HEAD)
        if head is None or not self.model.tie_word_embeddings:
            return None
        if head.shape != self._tensors[_EMBEDDING].shape or head.dtype != self._tensors[_EMBEDDING].dtype:
            return False
        step = max(1, AT_ONCE // max(1, head.row_bytes))
        rows = (slice(start, min(start + step, head.shape[0])) for start in range(0, head.shape[0], step))
        boxes = ((part, slice(0, head.shape[1])) for part in rows)
        return all(torch.equal(self._read(HEAD, box), self._read(_EMBEDDING, box)) for box in boxes)

    def _known(self, model: Model) -> Mapping[str, Parameter]:
        return parameters(model)

    def _read(self, key: str, slices: tuple[slice, ...]) -> torch.Tensor:
        """A part of a tensor. Rows of the vocabulary that the file does not have are padding, and zero."""
        tensor, rows = self._tensors[key], slices[0]
        if rows.stop <= tensor.shape[0]:
            return tensor.read(slices)
        own = tensor.read((slice(min(rows.start, tensor.shape[0]), tensor.shape[0]), *slices[1:]))
        return torch.cat([own, own.new_zeros(rows.stop - rows.start - len(own), *own.shape[1:])])

    def _left(self) -> list[str]:
        used = {key for keys in self._keys.values() for key in keys}
        return sorted(self._tensors.keys() - used)

    def _reason(self, key: str) -> str | None:
        if key.endswith(INV_FREQ):
            return INV_FREQ
        if key.startswith(VISION):
            return PICTURES
        if key == HEAD and self.model.tie_word_embeddings:
            return TIED
        layer = _LAYER.match(key)
        if layer and int(layer[1]) >= self._layers_in_file:
            return MTP
        return NOT_CHOSEN if layer and int(layer[1]) not in self._layers else None

    def _add(self, shard: Shard) -> None:
        there = shard.described()
        described = {canonical(key): tensor for key, tensor in there.items()}
        if len(described) < len(there):
            again = next(key for key in there if canonical(key) != key and canonical(key) in there)
            raise UsageError(f"{self.path}: {again} and {canonical(again)} are both in {shard.path.name}; keep one of them")
        described = self._spelled(described)
        twice = sorted(described.keys() & self._tensors.keys())
        if twice:
            first = self._tensors[twice[0]].shard.path.name
            raise UsageError(
                f"{self.path}: {twice[0]} is in {first} and in {shard.path.name}; keep the files of one model only"
            )
        self._tensors |= described

    def _spelled(self, described: dict[str, Described]) -> dict[str, Described]:
        """A file's tensors as the model's keys have them: one for each expert."""
        for key in list(described):
            found = fused_experts(key)
            if found and len(shape := described[key].shape) == _OF_EXPERTS and shape[0] == self.model.n_routed_experts:
                described |= _by_expert(*found, described.pop(key))
        return described

    def _check(self) -> None:
        """Raises UsageError for keys that are missing, and for tensors of another dtype or shape."""
        missing = [key for keys in self._keys.values() for key in keys if key not in self._tensors]
        if missing:
            why = hint(self._tensors, missing) or "the files and config.json must be of the same model"
            raise UsageError(f"{self.path}: {missing[0]} is missing ({len(missing)} of the model's tensors are); {why}")
        for name, keys in self._keys.items():
            shape = self.parameters[name].shape
            for key in keys:
                self._check_tensor(key, shape[1:] if EXPERTS in name else shape, keys[0])

    def _check_tensor(self, key: str, shape: tuple[int, ...], like: str) -> None:
        tensor = self._tensors[key]
        self._check_dtype(key, tensor)
        if key in (HEAD, _EMBEDDING) and tensor.shape[0] == self.model.vocab_size:
            shape = (self.model.vocab_size, *shape[1:])  # the rows of padding are not in the file
        if tensor.shape != shape:
            raise UsageError(f"{self.path}: {key} has shape {tensor.shape} and config.json needs {shape}")
        if tensor.dtype != self._tensors[like].dtype:
            raise UsageError(
                f"{self.path}: {key} is {tensor.dtype} and {like} {self._tensors[like].dtype}; store experts alike"
            )

    def _check_dtype(self, key: str, tensor: Described) -> None:
        if tensor.dtype.startswith("F8") or f"{key}_scale_inv" in self._tensors:
            raise UsageError(
                f"{self.path}: {key} is fp8 block-quantised; `{tree.VALIDATION} convert --to-hf --load {self.path} --save "
                "DIR` makes a folder in bf16 of it"
            )
        if tensor.dtype not in DTYPES:
            raise UsageError(f"{self.path}: {key} is stored as {tensor.dtype}; convert it to bf16 first")


def _by_expert(prefix: str, matrix: str, tensor: Described) -> dict[str, Described]:
    """A matrix of all experts of a layer, [experts, rows, columns], gate and up perhaps in one, as a tensor for each."""
    names = ("gate_proj", "up_proj") if matrix == GATE_AND_UP else (matrix,)
    rows = tensor.shape[1] // len(names)
    return {
        f"{prefix}.{expert}.{name}.weight": tensor.part_of_expert(expert, place * rows, rows)
        for expert in range(tensor.shape[0])
        for place, name in enumerate(names)
    }


def _keys_in_file(parameter: Parameter, layers: tuple[int, ...]) -> tuple[str, ...]:
    """The keys of a parameter, in the file's own numbering of layers."""
    keys = parameter.keys()
    if parameter.layer is None:
        return keys
    here, there = f"model.layers.{parameter.layer}.", f"model.layers.{layers[parameter.layer]}."
    return tuple(there + key.removeprefix(here) for key in keys)


def verify(checkpoint: Checkpoint) -> str:
    """The weights digest: sha256, in hexadecimal, over names, shapes, dtypes and bytes of the tensors that the model uses.

    One pass over all of them. Raises UsageError for the first that is not finite.
    """
    _check_head(checkpoint)
    digest = hashlib.sha256()
    for name, parameter in checkpoint.parameters.items():
        digest.update(f"{name} {parameter.shape} {checkpoint.dtype(name)}\n".encode())
        for key, rows in checkpoint.pieces(name):
            if not bool(torch.isfinite(rows).all()):
                raise UsageError(
                    f"{checkpoint.path}: {key} holds NaN or infinite values; the file is damaged or was never trained"
                )
            digest.update(rows.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_head(checkpoint: Checkpoint) -> None:
    """Raises UsageError for a head that is not the embedding, though both are tied."""
    head = checkpoint.copy_of_embedding()
    if head is not None and not head:
        raise UsageError(
            f"{checkpoint.path}: {HEAD} is not {_EMBEDDING} again, and config.json says tie_word_embeddings; with false there "
            "both are read"
        )


def _opened(stack: ExitStack, path: Path, device: torch.device, stored: bool) -> Shard:
    shard = MappedShard(path, device) if stored and is_small(path, device) else Shard(path, device)
    stack.callback(shard.close)
    return shard


def _bounds(parameter: Parameter, slices: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """The slices with both ends as numbers."""
    slices = slices if slices is not None else (slice(None),) * len(parameter.shape)
    if len(slices) != len(parameter.shape):
        raise ValueError(f"{parameter.name} has {many(len(parameter.shape), 'dimension')}, not {len(slices)}")
    ends = [part.indices(size) for part, size in zip(slices, parameter.shape, strict=True)]
    if any(step != 1 for _, _, step in ends):
        raise ValueError(f"{parameter.name} is read in steps of 1 only")
    return tuple(slice(start, max(start, stop)) for start, stop, _ in ends)
