"""Reading the legacy format: any box of any parameter, from the files of the ranks that hold it."""

from __future__ import annotations

import math
import pickle
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.rank_files import rank_files, tensors_of, without_data
from validation.candidate.checkpoint.tensors import Megatron
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.megatron_folder import RANK_FILE
from validation.compare.piece import Box, box_shape
from validation.convert.describe import Described
from validation.convert.shell import first_byte
from validation.convert.source import DTYPES, Inventory, Source, refuse_unknown
from validation.convert.stored import Stored, read


class Legacy(Source):
    """A folder of `mp_rank_...` folders."""

    format = "legacy"

    def __init__(self, path: Path, described: Described, arrangement: Arrangement) -> None:
        super().__init__(path, described)
        self._held: dict[str, list[Stored]] = defaultdict(list)
        self._tensors = 0
        self._files = [path / file.path for file in rank_files(arrangement.layout)]
        for file in rank_files(arrangement.layout):
            states = {name: named for name, named in opened(path / file.path).items() if re.fullmatch(r"model\d*", name)}
            te = any(name.endswith("layer_norm_weight") for named in states.values() for name in named)
            down = next((t for n in states.values() for k, t in n.items() if k.endswith("linear_kv_down_proj.weight")), None)
            cut = down is not None and down.shape[0] * arrangement.layout.tp == self._latent() and arrangement.layout.tp > 1
            megatron = Megatron(described.model, self.parameters, "te" if te else "local-stock" if cut else "local")
            self._add(path / file.path, states, tensors_of(megatron, arrangement, described.model, file))

    def _latent(self) -> int:
        model = self.described.model
        return model.kv_lora_rank + model.qk_rope_head_dim

    def _add(self, path: Path, states: dict[str, Any], wanted: Any) -> None:
        left = {(state, name) for state, named in states.items() for name, tensor in named.items() if torch.is_tensor(tensor)}
        left = {found for found in left if not found[1].endswith("_extra_state")}
        self._tensors += len(left)
        for state, name, tensor in wanted:
            found = states.get(state, {}).get(name)
            if found is None:
                raise UsageError(f"{path}: {name} is missing; the checkpoint and config.json must be of the same model")
            if tuple(found.shape) != tensor.shape or found.dtype not in DTYPES.values():
                raise UsageError(f"{path}: {name} is {found.dtype} {tuple(found.shape)} and config.json needs {tensor.shape}")
            left.discard((state, name))
            offset = _first_byte(found, path)
            for held in tensor.holdings:
                self._held[held.parameter.name].append(Stored(path, offset, held.box, found.dtype, self._opened))
                offset += math.prod(box_shape(held.box)) * found.element_size()
        refuse_unknown(path, sorted(name for _, name in left))

    @classmethod
    def open(cls, path: Path, described: Described) -> Legacy:
        """The checkpoint in a folder of `mp_rank_...` folders. Raises UsageError."""
        first = sorted(path.glob(f"mp_rank_*/{RANK_FILE}"))[0]
        return cls(path, described, arrangement_of(opened(first).get("args"), first))

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
        return Inventory({"weights": self._tensors})

    def files(self) -> list[Path]:
        """The ranks' files."""
        return self._files


def _first_byte(found: torch.Tensor, path: Path) -> int:
    try:
        return first_byte(found)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def opened(path: Path) -> dict[str, Any]:
    """A rank's file, of tensors without their data. Raises UsageError."""
    try:
        return without_data(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: is missing; the checkpoint is not whole") from None
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path}: cannot be read ({said}); the file is damaged") from None


def arrangement_of(arguments: Any, path: Path) -> Arrangement:
    """The layout that Megatron-LM's arguments of a file describe. Raises UsageError."""
    try:
        tp, pp = arguments.tensor_model_parallel_size, arguments.pipeline_model_parallel_size
        layers = arguments.num_layers
    except AttributeError as error:
        raise UsageError(f"{path}: the arguments in it do not say the layout ({error})") from None
    layout = Layout(
        tp=tp,
        pp=pp,
        vpp=getattr(arguments, "virtual_pipeline_model_parallel_size", None) or 1,
        ep=getattr(arguments, "expert_model_parallel_size", None) or 1,
        etp=getattr(arguments, "expert_tensor_parallel_size", None),
    )
    ends = [getattr(arguments, f"decoder_{end}_pipeline_num_layers", None) for end in ("first", "last")]
    return Arrangement(layout, _stages(layers, pp, *ends))


def _stages(layers: int, pp: int, first: int | None, last: int | None) -> tuple[int, ...]:
    """The layers of each stage, where the first or the last has a number of its own; the others share alike."""
    if first is None and last is None:
        return ()
    begin, end = ([number] if number is not None else [] for number in (first, last))
    others = pp - len(begin) - len(end)
    each = (layers - sum(begin) - sum(end)) // max(1, others)
    return (*begin, *[each] * others, *end)
