"""The model's weights from a Megatron checkpoint, loaded as training loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.models.gpt import GPTModel
from torch.distributed.checkpoint.api import CheckpointException

from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.megatron_folder import is_torch_dist, megatron_folder, rank_file


def load_saved(chunks: list[GPTModel], path: Path, layout: Layout) -> None:
    """Load every chunk of this rank, each of its tensors. Raises UsageError where the checkpoint is of another model."""
    place = megatron_folder(path)
    if place is None:
        raise UsageError(f"--candidate-checkpoint {path}: no Megatron checkpoint; `python -m validation convert` makes one")
    names = ["model"] if len(chunks) == 1 else [f"model{number}" for number in range(len(chunks))]
    try:
        state = _torch_dist(chunks, names, place) if is_torch_dist(place) else _rank_file(place, layout)
        for name, chunk in zip(names, chunks, strict=True):
            chunk.load_state_dict(state[name])
    except (CheckpointException, CheckpointingException, RuntimeError, KeyError, OSError) as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        said = str(cause).strip("\"'").partition("\n")[0].partition(": [")[0]
        raise UsageError(
            f"--candidate-checkpoint {path}: megatron-core cannot load it into this model ({said}); it must be of the same "
            "model, layers and --implementation"
        ) from error


def _torch_dist(chunks: list[GPTModel], names: list[str], place: Path) -> dict[str, Any]:
    groups = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    wanted = {name: chunk.sharded_state_dict(metadata=dict(groups)) for name, chunk in zip(names, chunks, strict=True)}
    state: dict[str, Any] = dist_checkpointing.load(wanted, str(place))
    return state


def _rank_file(place: Path, layout: Layout) -> dict[str, Any]:
    mpu = parallel_state
    name = rank_file(
        mpu.get_tensor_model_parallel_rank(),
        mpu.get_pipeline_model_parallel_rank(),
        mpu.get_expert_model_parallel_rank(),
        layout,
    )
    # megatron-core has told torch which classes of the arguments are safe.
    state: dict[str, Any] = torch.load(place / name, map_location="cpu", weights_only=True, mmap=True)
    return state
