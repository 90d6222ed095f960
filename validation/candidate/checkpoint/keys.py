"""The names of torch_dist: each parameter of the model has one tensor there, whatever the layout, with the experts stacked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from validation.candidate.checkpoint.tensors import Megatron, Tensor, one_rank
from validation.case.parameters import EXPERTS, Parameter
from validation.compare.piece import Box

_EXPERT = re.compile(r"(?<=mlp\.)experts\.(?:local_experts\.\d+\.)?(linear_fc[12]\.weight)\d*$")


_TRAINING = re.compile(r"(chained_\d+\.)?optimizer\.|rng_state|rerun_state|common_state/|(opt_param|lr)_scheduler")
"""What training saves beside the model: one optimizer, or several in a chain, whatever they shard their states by.

Since 0.19 what stood in `common.pt` is an object among the tensors.
"""


_WRAPPED = re.compile(r"^((model|module|_orig_mod)\.)+")
"""What wrapped models put before each name, and FSDP's checkpoints. No name of megatron-core's begins so."""


def unwrapped(key: str) -> str:
    """A key as megatron-core's model has it."""
    return _WRAPPED.sub("", key)


def of_training(key: str) -> bool:
    """Whether a tensor of a checkpoint is none of the model."""
    return _TRAINING.match(key) is not None


def what_works(key: str) -> str:
    """What helps if a checkpoint lacks a tensor that the model of config.json has."""
    if unwrapped(key).startswith("mtp."):
        return "config.json names MTP layers; --no-mtp reads a checkpoint that was saved without them"
    return "the checkpoint and config.json must be of the same model"


@dataclass(frozen=True)
class Place:
    """Where a parameter lies in the tensor `key` of `shape`: from row `first` on, gate and up being one tensor."""

    key: str
    shape: tuple[int, ...]
    first: int

    def box(self, box: Box) -> Box:
        """A part of the parameter, in the indices of the tensor."""
        axis = len(self.shape) - 2 if len(self.shape) > 1 else 0
        start, stop = box[axis]
        return (*box[:axis], (start + self.first, stop + self.first), *box[axis + 1 :])


def key_of(name: str) -> str:
    """The key of a rank's tensor (layers counted over the whole model); sequential and grouped experts have the same."""
    return _EXPERT.sub(r"experts.experts.\1", name)


def places(megatron: Megatron) -> Mapping[str, Place]:
    """The place of every parameter."""
    found: dict[str, Place] = {}
    for tensor in megatron.tensors(one_rank()):
        for parameter, place in _places(tensor):
            found.setdefault(parameter.name, place)
    return found


def _places(tensor: Tensor) -> Iterator[tuple[Parameter, Place]]:
    parameters = [held.parameter for held in tensor.holdings]
    axis = 1 if EXPERTS in parameters[0].name else 0
    rows = [parameter.shape[axis] for parameter in parameters]
    shape = list(parameters[0].shape)
    shape[axis] = sum(rows)
    for index, parameter in enumerate(parameters):
        yield parameter, Place(key_of(tensor.name), tuple(shape), sum(rows[:index]))


def extra_states(megatron: Megatron) -> Iterator[str]:
    """The keys of the modules' `_extra_state`, one for each expert, as megatron-core's ShardedObject spells them."""
    for tensor in megatron.tensors(one_rank()):
        if not megatron.extra_state(tensor.row) or tensor.name == "output_layer.weight":
            continue
        parameter = tensor.holdings[0].parameter
        module = re.sub(r"\.(layer_norm_)?weight\d*$", "", key_of(tensor.name))
        expert, count = (tensor.holdings[0].box[0][0], parameter.shape[0]) if EXPERTS in parameter.name else (0, 1)
        yield f"{module}._extra_state/shard_{expert}_{count}"
    # Elsewhere TEDotProductAttention leaves its own out; up to 0.16 the MTP block's default brings it back.
    for index in range(megatron.model.num_nextn_predict_layers if megatron.implementation == "te" else 0):
        yield f"mtp.layers.{index}.transformer_layer.self_attention.core_attention._extra_state/shard_0_1"
