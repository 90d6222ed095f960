"""megatron-core's own optimizer over the wrapped model, and what it leaves of each parameter after a step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from validation.candidate.typed import typed
from validation.case import loss_scale
from validation.case.case import Case
from validation.case.optimizers import FIRST, Rule, counts_zeros
from validation.case.schedule import Schedule
from validation.case.steps import MASTER
from validation.compare.precision import DTYPES, LOSS_DTYPES

_FIELDS = OptimizerConfig
"""Whose fields say what a setting's text stands for, whoever is asked to make the configuration."""
_AT_ONCE = 512 << 20
"""Bytes that are added up at a time: on their way through the host they lie in memory that is pinned once, and used again."""


@dataclass(frozen=True)
class Place:
    """Where a parameter lies in megatron-core's optimizers: which one, what that one steps, the number of its group.

    Groups are other objects when an optimizer has been loaded.
    """

    optimizer: Any
    own: torch.Tensor
    number: int

    @property
    def group(self) -> dict[str, Any]:
        """The parameter's group, which has its rates."""
        found: dict[str, Any] = self.optimizer.optimizer.param_groups[self.number]
        return found


@dataclass(frozen=True)
class Share:
    """What one rank steps of a parameter: its place, and which elements of the flattened parameter it is."""

    place: Place
    elements: slice

    @property
    def state(self) -> Mapping[str, Any]:
        """What the optimizer keeps of it; empty before the first step."""
        found: Mapping[str, Any] = self.place.optimizer.optimizer.state.get(self.place.own, {})
        return found


def optimizer_config(case: Case) -> OptimizerConfig:
    """The configuration of the optimizer and of the clipping before it."""
    mixed = {"bf16": case.precision == "bf16", "fp16": case.precision == "fp16"}
    given = case.training.effective("optimizer") | loss_scale.settings(case)
    return OptimizerConfig(**typed(_FIELDS, {"params_dtype": DTYPES[case.precision], **mixed, **given}))


def scheduler(case: Case, optimizer: Any) -> OptimizerParamScheduler:
    """What sets the rates: learning rate and weight decay reach the optimizer's parameter groups through it only."""
    return OptimizerParamScheduler(optimizer, **case.training.effective("scheduler") | Schedule.of(case.training).arguments)


class Optimizer:
    """AdamW or another with clipping, plain or distributed, as megatron-core builds it, and the scheduler that sets its rates.

    `zeros` are how many elements of the gradients were 0 in the last step; None if nobody counts them.
    """

    def __init__(self, case: Case, wrapped: list[DistributedDataParallel]) -> None:
        self._distributed, self._masters = case.training.optimizer == "distributed", case.has_masters
        self._norm_dtype, self._moments = LOSS_DTYPES[case.precision], tuple(Rule.of(case.training).moments)
        self.zeros: float | None = None
        self._counts_zeros = counts_zeros(case.training)
        config = optimizer_config(case)
        self.theirs = get_megatron_optimizer(config, list(wrapped), use_gloo_process_groups=False)
        chained = self.parts = getattr(self.theirs, "chained_optimizers", [self.theirs])
        self._all = {id(tensor): optimizer for optimizer in chained for tensor in _parameters(optimizer, self._distributed)}
        self._places = {id(tensor): place for optimizer in chained for tensor, place in _places(optimizer, self._distributed)}
        if case.precision == "fp16":
            wrapped[0].config.grad_scale_func = self.theirs.scale_loss
        self.scheduler = scheduler(case, self.theirs)

    @property
    def loss_scale(self) -> float:
        """What the loss is multiplied with in the next backward pass; 1 but in fp16."""
        return float(self.theirs.get_loss_scale())

    def try_step(self) -> bool:
        """One step without the scheduler's; returns whether megatron-core has taken it."""
        taken: bool = self.theirs.step()[0]
        self.theirs.zero_grad()
        return taken

    def step(self, taken_now: Callable[[], None] = lambda: None) -> torch.Tensor:
        """One step with the gradients that are in the buffers; returns the norm of all gradients, before clipping.

        It is no number if megatron-core has skipped the step, which it does with gradients that are not finite. Behind a step
        that was taken, `taken_now` is called while the optimizer still has the gradients.
        """
        taken, norm, zeros = self.theirs.step()
        if taken:
            taken_now()
        # If nobody counts them, some releases and optimizers return 0, and others None.
        self.zeros = float(zeros) if self._counts_zeros else None
        # The plain optimizer leaves main_grad as the parameters' grad, which the next backward pass would add to.
        self.theirs.zero_grad()
        self.scheduler.step(1)
        return torch.as_tensor(norm if taken else math.nan).to(self._norm_dtype).reshape(())

    def rates(self, tensor: torch.Tensor) -> tuple[float, float] | None:
        """The learning rate and the weight decay that the next step has for a parameter; None if none of it is this rank's."""
        place = self._places.get(id(tensor))
        return None if place is None else (float(place.group["lr"]), float(place.group["weight_decay"]))

    def share(self, tensor: torch.Tensor) -> Share | None:
        """What this rank's optimizer steps of a parameter; None if it is nothing."""
        place = self._places.get(id(tensor))
        if place is None:
            return None
        if not self._distributed:
            return Share(place, slice(0, place.own.numel()))
        held = place.optimizer._get_model_param_range_map(tensor)["param"]
        return Share(place, slice(held.start, held.end))

    def states(self, tensors: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """What the optimizer keeps of parameters, with masters if there are any, each of the parameter's shape.

        Empty for what no optimizer steps. All ranks must ask for the same parameters in the same order.
        """
        if not self._distributed:
            return [self._state(tensor) for tensor in tensors]
        stepped = {id(tensor): (optimizer, tensor) for tensor in tensors if (optimizer := self._all.get(id(tensor)))}
        found = _gathered(list(stepped.values()), self._moments, self._masters)
        by_id = dict(zip(stepped, found, strict=True))
        return [by_id.get(id(tensor), {}) for tensor in tensors]

    def first_moments(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """The first moments of parameters as `states` has them; zeros before the first step, None for what nobody steps.

        All ranks must ask for the same parameters in the same order.
        """
        if self._distributed:
            stepped = {id(tensor): (optimizer, tensor) for tensor in tensors if (optimizer := self._all.get(id(tensor)))}
            found = dict(zip(stepped, _gathered(list(stepped.values()), [FIRST], masters=False, in_float32=True), strict=True))
            return [found[id(tensor)][FIRST] if id(tensor) in found else None for tensor in tensors]
        return [self._first_moment(tensor) for tensor in tensors]

    def _first_moment(self, tensor: torch.Tensor) -> torch.Tensor | None:
        place = self._places.get(id(tensor))
        if place is None:
            return None
        kept: torch.Tensor | None = place.optimizer.optimizer.state.get(place.own, {}).get(FIRST)
        return torch.zeros_like(place.own) if kept is None else kept

    def _state(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        place = self._places.get(id(tensor))
        if place is None:
            return {}
        state = place.optimizer.optimizer.state.get(place.own, {})
        found = {kind: state[kind] for kind in self._moments if state.get(kind) is not None}
        return found | ({MASTER: place.own.detach()} if self._masters else {})


def _parameters(optimizer: Any, distributed: bool) -> Iterator[torch.Tensor]:
    """All that one optimizer of the chain steps, whatever share of it is this rank's."""
    if distributed:
        return (tensor for buffer in optimizer.buffers for tensor in buffer.params)
    return (tensor for tensor, _ in _places(optimizer, distributed))


def _places(optimizer: Any, distributed: bool) -> Iterator[tuple[torch.Tensor, Place]]:
    """The model's parameters that one optimizer of the chain steps here, each with its place."""
    groups = optimizer.optimizer.param_groups if optimizer.optimizer is not None else []
    if distributed:
        for tensor, (group, at) in optimizer.model_param_group_index_map.items():
            yield tensor, Place(optimizer, groups[group]["params"][at], group)
        return
    pairs = zip(*(getattr(optimizer, f"{kind}_groups", ()) for kind in ("fp32_from_float16", "float16")), strict=True)
    model = {id(master): tensor for masters, tensors in pairs for master, tensor in zip(masters, tensors, strict=True)}
    for number, group in enumerate(groups):
        for tensor in group["params"]:
            yield model.get(id(tensor), tensor), Place(optimizer, tensor, number)


def _gathered(
    stepped: Sequence[tuple[Any, torch.Tensor]], moments: Sequence[str], masters: bool, *, in_float32: bool = False
) -> list[dict[str, torch.Tensor]]:
    """What the data-parallel ranks hold shares of, whole: a sum, in which a share that two hold shows.

    `stepped` are optimizers with the parameters that they step. Those of one group and dtype are views of one tensor, so that
    a group adds them up together, and not each parameter by itself. That is `in_float32`, or in the parameter's dtype if there
    are no masters.
    """
    kinds = {**{kind: kind for kind in moments}, **({MASTER: "param"} if masters else {})}
    alike: dict[Any, list[tuple[int, Any, torch.Tensor]]] = defaultdict(list)
    for index, (optimizer, tensor) in enumerate(stepped):
        alike[optimizer.data_parallel_group, tensor.dtype, tensor.device].append((index, optimizer, tensor))
    found: list[dict[str, torch.Tensor]] = [{} for _ in stepped]
    for (group, dtype, device), members in alike.items():
        length = len(kinds) * sum(tensor.numel() for _, _, tensor in members)
        together = torch.zeros(length, dtype=torch.float32 if masters or in_float32 else dtype, device=device)
        wholes = iter(together.split([tensor.numel() for _, _, tensor in members for _ in kinds]))
        for index, optimizer, tensor in members:
            found[index] = {kind: next(wholes).view(tensor.shape) for kind in kinds}
            if tensor in optimizer.model_param_group_index_map:
                state = optimizer._get_main_param_and_optimizer_states(tensor)
                share = optimizer._get_model_param_range_map(tensor)["param"]
                for kind, theirs in kinds.items():
                    part = _of_remainders(optimizer, tensor, state[theirs]) if kind == MASTER else state[theirs]
                    found[index][kind].view(-1)[share.start : share.end] = part.detach()
        for part in together.split(_AT_ONCE // together.element_size()):
            dist.all_reduce(part, group=group)
    return found


def _of_remainders(optimizer: Any, tensor: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """A master as it is stored, or put together: a precision-aware optimizer keeps its lower half beside the bf16 parameter.

    The parameter is the upper half, rounded: it is one higher where the lower half, read as a number, is negative.
    https://github.com/NVIDIA/TransformerEngine/blob/v2.11/transformer_engine/common/multi_tensor/adam.cu
    """
    if stored.dtype != torch.int16:
        return stored
    group, at = optimizer.model_param_group_index_map[tensor]
    upper = optimizer.optimizer.param_groups[group]["params"][at].detach().view(torch.int16).to(torch.int32)
    return ((upper - (stored < 0).int()) << 16 | stored.to(torch.int32) & 0xFFFF).view(torch.float32)


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
