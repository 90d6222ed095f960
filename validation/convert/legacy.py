"""Reading the legacy format: any box of any parameter, from the files of the ranks that hold it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from validation.candidate.checkpoint.keys import unwrapped, what_works
from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.rank_files import RankFile, mtp_block_in, rank_files, tensors_of, without_data
from validation.candidate.checkpoint.tensors import EMBEDDING, HEAD, Megatron, Tensor, are_joined, of_te
from validation.case.errors import UsageError
from validation.case.layout import MOST_RANKS, Layout, check_ranks
from validation.case.megatron_folder import RANK_FILE
from validation.case.parameters import parameters
from validation.case.strangers import shown
from validation.case.vocabulary import rows
from validation.compare.piece import Box, box_shape
from validation.convert.describe import Described
from validation.convert.shell import first_byte
from validation.convert.source import DTYPES, OF_TRAINING, Inventory, Source, padding, refuse_unknown
from validation.convert.stored import Stored, read

_STATE = re.compile(r"model\d*")


def _count(value: Any) -> int:
    """Tensors in a value, however deep, each once. A stranger's may be in itself."""
    found, seen, left = 0, set[int](), [value]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        found += torch.is_tensor(one)
        left += one.values() if isinstance(one, dict) else one if isinstance(one, (list, tuple)) else ()
    return found


def _is_down(name: str, found: Any) -> bool:
    return name.endswith("linear_kv_down_proj.weight") and torch.is_tensor(found) and found.dim() == 2


class Legacy(Source):
    """A folder of `mp_rank_...` folders."""

    format = "legacy"

    def __init__(self, path: Path, described: Described, arrangement: Arrangement) -> None:
        super().__init__(path, described)
        self._held: dict[str, list[Stored]] = defaultdict(list)
        self._tensors, self._of_training, self._padded = 0, 0, dict[str, tuple[int, int]]()
        self._files = [path / file.path for file in rank_files(arrangement.layout)]
        # Of a vocabulary that tp does not divide every rank has a part all the same, with padding.
        least = rows(described.model.vocab_size, 1, arrangement.layout.tp)
        model = replace(described.model, padded_vocab_size=least)
        for file in rank_files(arrangement.layout):
            held = without_data(path / file.path)
            states = {
                name: {unwrapped(key): tensor for key, tensor in named.items()}
                for name, named in held.items()
                if _STATE.fullmatch(name)
            }
            self._of_training += sum(_count(value) for name, value in held.items() if not _STATE.fullmatch(name))
            te = of_te(name for named in states.values() for name in named)
            down = next((t for n in states.values() for k, t in n.items() if _is_down(k, t)), None)
            cut = down is not None and down.shape[0] * arrangement.layout.tp == self._latent() and arrangement.layout.tp > 1
            implementation = "te" if te else "local-stock" if cut else "local"
            block = mtp_block_in(name for named in states.values() for name in named)
            joined = are_joined(name for named in states.values() for name in named)
            megatron = Megatron(model, parameters(model), implementation, block, joined)
            self._add(path / file.path, states, tensors_of(megatron, arrangement, model, file), file)

    def _latent(self) -> int:
        model = self.described.model
        return model.kv_lora_rank + model.qk_rope_head_dim

    def _add(self, path: Path, states: dict[str, Any], wanted: Any, file: RankFile) -> None:
        left = {(state, name) for state, named in states.items() for name, tensor in named.items() if torch.is_tensor(tensor)}
        left = {found for found in left if not found[1].endswith("_extra_state")}
        self._tensors += len(left)
        for state, name, tensor in wanted:
            found = states.get(state, {}).get(name)
            if found is None:
                raise UsageError(f"{path}: {name} is missing; {what_works(name)}")
            if not _plain(found):
                raise UsageError(
                    f"{path}: {name} does not lie in the file row by row; save the checkpoint again as Megatron-LM does"
                )
            tokens = self.described.model.vocab_size
            if (tensor := _with_padding(known := tensor, tuple(found.shape), file, tokens)) is not known:
                self._padded[tensor.name] = tensor.shape[0] * file.ranks.tp[1], tokens
            if tuple(found.shape) != tensor.shape or found.dtype not in DTYPES.values():
                raise UsageError(f"{path}: {name} is {found.dtype} {tuple(found.shape)} and config.json needs {tensor.shape}")
            left.discard((state, name))
            offset = _first_byte(found, path)
            for held in tensor.holdings:
                if held.box[0][0] < held.box[0][1]:
                    self._held[held.parameter.name].append(Stored(path, offset, held.box, found.dtype, self._opened))
                offset += math.prod(box_shape(held.box)) * found.element_size()
        refuse_unknown(path, sorted(name for _, name in left))

    @classmethod
    def open(cls, path: Path, described: Described) -> Legacy:
        """The checkpoint in a folder of `mp_rank_...` folders. Raises UsageError."""
        first = sorted(path.glob(f"mp_rank_*/{RANK_FILE}"))[0]
        return cls(path, described, arrangement_of(without_data(first).get("args"), first))

    def stored(self, name: str, box: Box) -> tuple[Sequence[Stored], Box]:
        """Of every rank that holds some of the parameter."""
        return self._held[name], box

    def dtype(self, name: str) -> torch.dtype:
        """That of the first file that holds it."""
        return self._held[name][0].dtype

    def read(self, name: str, box: Box) -> torch.Tensor:
        """Put together from the ranks' parts."""
        found = read(self._held[name], box, self.dtype(name))
        if found is None:
            raise UsageError(f"{self.path}: {name} is not whole, the ranks' files do not cover {box}")
        return found

    def inventory(self) -> Inventory:
        """Every tensor of every file."""
        return Inventory({"weights": self._tensors}, {OF_TRAINING: self._of_training})

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the vocabulary is padding, and which files of the ranks are not read."""
        beside = sorted({file.name for path in self._files for file in path.parent.iterdir() if file.is_file()} - {RANK_FILE})
        others = [f"{shown(name)} beside {RANK_FILE} is left aside" for name in beside]
        return (*(padding(name, rows, taken) for name, (rows, taken) in self._padded.items()), *others)

    def files(self) -> list[Path]:
        """The ranks' files."""
        return self._files


def _with_padding(tensor: Tensor, shape: tuple[int, ...], file: RankFile, tokens: int) -> Tensor:
    """A tensor over the vocabulary as a rank has it that shares a larger one: training pads it to a multiple.

    Ranks share the padded rows alike, so that the last of them may hold padding alone. Any other tensor is returned as it is.
    """
    rank, ranks = file.ranks.tp
    held = tensor.holdings[0]
    if tensor.name not in (EMBEDDING, HEAD) or len(shape) != len(tensor.shape) or shape[1:] != tensor.shape[1:]:
        return tensor
    if shape[0] * ranks <= tokens:
        return tensor
    start, stop = (min(tokens, shape[0] * place) for place in (rank, rank + 1))
    box = ((start, stop), *held.box[1:])
    return replace(tensor, shape=shape, holdings=(replace(held, rows=(0, stop - start), box=box),))


def _plain(found: Any) -> bool:
    """Whether it is a tensor whose bytes lie in the file as they lie in memory."""
    return torch.is_tensor(found) and found.layout == torch.strided and found.is_contiguous()


def _first_byte(found: torch.Tensor, path: Path) -> int:
    try:
        return first_byte(found)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def arrangement_of(arguments: Any, path: Path) -> Arrangement:
    """The layout that Megatron-LM's arguments of a file describe. Raises UsageError."""

    def number(name: str, otherwise: int | None = None) -> int:
        found = getattr(arguments, name, None)
        found = otherwise if found is None else found
        if type(found) is not int or not 1 <= found <= MOST_RANKS:
            raise UsageError(
                f"{path}: {name} in the arguments is {shown(found)}, and the layout needs a whole number; save the checkpoint "
                "again"
            )
        return found

    layout = Layout(
        tp=number("tensor_model_parallel_size"),
        pp=number("pipeline_model_parallel_size"),
        vpp=number("virtual_pipeline_model_parallel_size", 1),
        ep=number("expert_model_parallel_size", 1),
        etp=None if getattr(arguments, "expert_tensor_parallel_size", None) is None else number("expert_tensor_parallel_size"),
    )
    check_ranks(layout, str(path))
    names = [f"decoder_{end}_pipeline_num_layers" for end in ("first", "last")]
    ends = [None if getattr(arguments, name, None) is None else number(name) for name in names]
    return Arrangement(layout, _stages(number("num_layers"), layout.pp, *ends))


def _stages(layers: int, pp: int, first: int | None, last: int | None) -> tuple[int, ...]:
    """The layers of each stage, where the first or the last has a number of its own; the others share alike."""
    if first is None and last is None:
        return ()
    begin, end = ([number] if number is not None else [] for number in (first, last))
    others = pp - len(begin) - len(end)
    each = (layers - sum(begin) - sum(end)) // max(1, others)
    return (*begin, *[each] * others, *end)
