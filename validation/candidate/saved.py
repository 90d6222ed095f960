"""The model's weights from a Megatron checkpoint, loaded as training loads it, but for what would run code of the file.

Training trusts its checkpoints: megatron-core unpickles `.metadata`, `common.pt` and the modules' extra states, and Transformer
Engine unpickles the bytes of an extra state once more. Here `.metadata` is read as data. The others are not read: the weights
need none of them.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.models.gpt import GPTModel
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from validation.candidate.checkpoint.archive import loaded, within_limits
from validation.candidate.checkpoint.metadata import read_metadata
from validation.case import tree
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.megatron_folder import is_torch_dist, megatron_folder, rank_file

EXTRA_STATE = "_extra_state"
"""How the name of a module's extra state ends. Where nothing is computed in fp8 there is nothing in it."""

_UNLOADABLE = (
    CheckpointException,
    CheckpointingException,
    pickle.UnpicklingError,
    RuntimeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    AttributeError,
)


def load_saved(chunks: list[GPTModel], path: Path, layout: Layout) -> None:
    """Load every chunk of this rank, each of its tensors. Raises UsageError where the checkpoint is of another model."""
    place = megatron_folder(path)
    if place is None:
        raise UsageError(f"--candidate-checkpoint {path}: no Megatron checkpoint; `{tree.VALIDATION} convert` makes one")
    names = ["model"] if len(chunks) == 1 else [f"model{number}" for number in range(len(chunks))]
    try:
        state = _torch_dist(chunks, names, place) if is_torch_dist(place) else _rank_file(place, layout)
        for name, chunk in zip(names, chunks, strict=True):
            chunk.load_state_dict(_weights(state[name], chunk))
    except UsageError:
        raise
    except _UNLOADABLE as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        said = str(cause).strip("\"'").partition("\n")[0].partition(": [")[0]
        raise UsageError(
            f"--candidate-checkpoint {path}: megatron-core cannot load it into this model ({said}); it must be of the same "
            "model, layers and --implementation"
        ) from error


def _weights(saved: dict[str, Any], chunk: GPTModel) -> dict[str, Any]:
    """A chunk's state from a file, with the extra states that the chunk has already."""
    weights = {name: value for name, value in saved.items() if not name.endswith(EXTRA_STATE)}
    return weights | {name: value for name, value in chunk.state_dict().items() if name.endswith(EXTRA_STATE)}


def _torch_dist(chunks: list[GPTModel], names: list[str], place: Path) -> dict[str, Any]:
    groups = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    asked = {name: chunk.sharded_state_dict(metadata=dict(groups)) for name, chunk in zip(names, chunks, strict=True)}
    wanted = {
        name: {key: value for key, value in state.items() if not isinstance(value, ShardedObject)}
        for name, state in asked.items()
    }
    with _as_data(), _nothing_common():
        state: dict[str, Any] = dist_checkpointing.load(wanted, str(place), **_without_common())
    return state


@contextlib.contextmanager
def _nothing_common() -> Iterator[None]:
    """Within it `common.pt`, which is a pickle, is not read by the functions that read it since 0.17."""
    theirs = importlib.import_module("megatron.core.dist_checkpointing.serialization")
    with contextlib.ExitStack() as stack:
        for name in ("load_common", "load_common_state_dict"):
            if name in vars(theirs):
                stack.enter_context(mock.patch.object(theirs, name, return_value={}))
        yield


def _without_common() -> dict[str, Any]:
    """The argument that leaves out `common.pt`; until 0.16 there is one."""
    theirs: Any = importlib.import_module("megatron.core.dist_checkpointing.strategies.common")
    if "TorchCommonLoadStrategy" not in vars(theirs):
        return {}

    class Nothing(theirs.TorchCommonLoadStrategy):
        """Loads what the weights need of it."""

        def load_common(self, checkpoint_dir: object) -> dict[str, Any]:
            return {}

    return {"common_strategy": Nothing()}


@contextlib.contextmanager
def _as_data() -> Iterator[None]:
    """Within it nothing of a checkpoint's files is run, whatever reads them and whatever is put in their place meanwhile.

    torch reads `.metadata` as data, `torch.load` takes weights only and holds to limits, and the storage client, which has
    its own reader, is off.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(FileSystemReader, "read_metadata", _read_metadata))
        stack.enter_context(
            mock.patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="0")
        )
        stack.enter_context(within_limits())
        with contextlib.suppress(ImportError):  # before 0.13 there is none
            client: Any = importlib.import_module("megatron.core.msc_utils").MultiStorageClientFeature
            stack.enter_context(mock.patch.object(client, "_enabled", False))
        yield


def _read_metadata(self: FileSystemReader) -> Metadata:
    found = read_metadata(Path(self.path))
    found.storage_meta = StorageMeta(load_id=self.load_id)
    return found


def _rank_file(place: Path, layout: Layout) -> dict[str, Any]:
    mpu = parallel_state
    name = rank_file(
        mpu.get_tensor_model_parallel_rank(),
        mpu.get_pipeline_model_parallel_rank(),
        mpu.get_expert_model_parallel_rank(),
        layout,
    )
    # megatron-core has told torch which classes of the arguments are safe.
    state: dict[str, Any] = loaded(place / name, map_location="cpu", mmap=True)
    return state
