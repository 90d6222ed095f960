"""Saving a training run and loading it again by megatron-core's dist_checkpointing: model, optimizer, scheduler.

As Megatron-LM's training/checkpointing.py does. The files are this run's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from validation.candidate import platform
from validation.candidate.optimizer import Optimizer
from validation.compare.precision import as_stored

_ANY_LAYOUT = ("fully_reshardable", "fully_sharded_model_space")
"""How a distributed optimizer saves its states for any other layout, by the newer name and by the older."""


def save(chunks: Sequence[GPTModel], optimizer: Optimizer, folder: Path) -> None:
    """Write a checkpoint; every rank takes part. `folder` is made."""
    if dist.get_rank() == 0:
        folder.mkdir()
    dist.barrier()
    state = _state(chunks, optimizer, is_loading=False)
    platform.same_steps_in_a_chain(state["optimizer"])
    with as_stored():
        dist_checkpointing.save(state, str(folder))
    platform.end_writers()


def load(chunks: Sequence[GPTModel], optimizer: Optimizer, folder: Path) -> None:
    """Read it into a model and an optimizer that have been made anew; every rank takes part."""
    with platform.steps_of_torchs(optimizer.parts):
        state = _state(chunks, optimizer, is_loading=True)
        with as_stored():
            found: dict[str, Any] = dist_checkpointing.load(state, str(folder))
            for name, chunk in _named(chunks).items():
                chunk.load_state_dict(found[name], strict=True)
        # Where buffers are gathered and scattered, megatron-core asks for float32 and for a GPU: the rank's mode answers.
        optimizer.theirs.load_state_dict(found["optimizer"])
    optimizer.scheduler.load_state_dict(found["opt_param_scheduler"])


def load_weights_alone(optimizer: Optimizer) -> None:
    """What a run does that has loaded weights and no optimizer: it tells the optimizer, whose masters are made of them."""
    with torch.no_grad():
        optimizer.theirs.reload_model_params()


def _named(chunks: Sequence[GPTModel]) -> dict[str, GPTModel]:
    return {"model" if len(chunks) == 1 else f"model{number}": chunk for number, chunk in enumerate(chunks)}


def _state(chunks: Sequence[GPTModel], optimizer: Optimizer, *, is_loading: bool) -> dict[str, Any]:
    groups = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    known = getattr(DistributedOptimizer, "checkpoint_fully_reshardable_formats", _ANY_LAYOUT)
    kind = next((name for name in _ANY_LAYOUT if name in known), _ANY_LAYOUT[-1])
    metadata = {"distrib_optim_sharding_type": kind, "chained_optim_avoid_prefix": True, **groups}
    state: dict[str, Any] = {name: chunk.sharded_state_dict(metadata=dict(metadata)) for name, chunk in _named(chunks).items()}
    shards = optimizer.theirs.sharded_state_dict
    takes = inspect.signature(shards).parameters
    more = {"metadata": metadata} if "metadata" in takes or "kwargs" in takes else {}
    state["optimizer"] = shards(dict(state), is_loading, **more)
    state["opt_param_scheduler"] = optimizer.scheduler.state_dict()
    return state
