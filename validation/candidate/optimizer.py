"""megatron-core's own optimizer over the wrapped model, and what it leaves of each parameter after a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from validation.candidate.typed import typed
from validation.case.case import Case
from validation.case.steps import MOMENTS
from validation.compare.precision import DTYPES


def optimizer_config(case: Case) -> OptimizerConfig:
    """The configuration of AdamW and of the clipping before it."""
    wanted = {"params_dtype": DTYPES[case.precision], **case.training.effective("optimizer")}
    return OptimizerConfig(**typed(OptimizerConfig, wanted))


class Optimizer:
    """AdamW with clipping, plain or distributed, as megatron-core builds it."""

    def __init__(self, case: Case, wrapped: list[DistributedDataParallel]) -> None:
        self._distributed = case.training.optimizer == "distributed"
        config = optimizer_config(case)
        self._optimizer = get_megatron_optimizer(config, list(wrapped), use_gloo_process_groups=False)
        chained = getattr(self._optimizer, "chained_optimizers", [self._optimizer])
        self._of = {id(tensor): optimizer for optimizer in chained for tensor in _parameters(optimizer, self._distributed)}
        # Learning rate and weight decay reach the parameter groups through the scheduler only.
        steady: dict[str, Any] = {
            "init_lr": config.lr,
            "max_lr": config.lr,
            "min_lr": min(config.lr, config.min_lr),
            "lr_warmup_steps": 0,
            "lr_decay_steps": case.training.steps,
            "lr_decay_style": "constant",
            "start_wd": config.weight_decay,
            "end_wd": config.weight_decay,
            "wd_incr_steps": case.training.steps,
            "wd_incr_style": "constant",
        }
        OptimizerParamScheduler(self._optimizer, **steady | case.training.effective("scheduler"))

    def step(self) -> torch.Tensor:
        """One step with the gradients that are in the buffers; returns the norm of all gradients, before clipping."""
        _, norm, _ = self._optimizer.step()
        # The plain optimizer leaves main_grad as the parameters' grad, which the next backward pass would add to.
        self._optimizer.zero_grad()
        return torch.as_tensor(norm).double().reshape(())

    def moments(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameter's two moments, each of its shape; empty where no optimizer has it."""
        optimizer = self._of.get(id(tensor))
        if optimizer is None:
            return {}
        if self._distributed:
            return _gathered(optimizer, tensor)
        state = optimizer.optimizer.state.get(tensor, {})
        return {kind: state[kind] for kind in MOMENTS if kind in state}


def _parameters(optimizer: Any, distributed: bool) -> Iterator[torch.Tensor]:
    """All that one optimizer of the chain steps, whatever share of it is this rank's."""
    if distributed:
        return (tensor for buffer in optimizer.buffers for tensor in buffer.params)
    groups = optimizer.optimizer.param_groups if optimizer.optimizer is not None else []
    return (tensor for group in groups for tensor in group["params"])


def _gathered(optimizer: Any, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Both moments whole, from the shares that the data-parallel ranks hold: a sum, in which a share that two hold shows."""
    found = {}
    held = tensor in optimizer.model_param_group_index_map
    state = optimizer._get_main_param_and_optimizer_states(tensor) if held else {}
    for kind in MOMENTS:
        whole = torch.zeros_like(tensor).view(-1)
        if held:
            share = optimizer._get_model_param_range_map(tensor)["param"]
            whole[share.start : share.end] = state[kind]
        dist.all_reduce(whole, group=optimizer.data_parallel_group)
        found[kind] = whole.view(tensor.shape)
    return found


def gather_gradients(wrapped: list[DistributedDataParallel]) -> None:
    """Make every rank's gradient buffers whole again after a distributed optimizer's reduce-scatter.

    Each rank has summed its share of a bucket and nothing else; the optimizer reads no more than that.
    """
    for chunk in wrapped:
        for buckets in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups):
            group = buckets.intra_distributed_optimizer_instance_group
            for bucket in buckets.buckets:
                share = bucket.grad_data.view(group.size(), -1)[group.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, share, group=group)
