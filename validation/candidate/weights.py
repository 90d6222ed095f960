"""The mapping between a HuggingFace checkpoint and Megatron's parameters, as one table, for both directions.

No row permutes anything: both sides rotate interleaved pairs, and per head both keep [nope, rope] and [key, value]. Gate
and up are one parameter in Megatron, and so may both down-projections be; each is cut first and then joined, so that every rank
has its own part of both.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from validation.case.model import Model
from validation.case.parameters import Parameter, parameters
from validation.compare.piece import Box, box_shape, share, whole

if TYPE_CHECKING:
    # Importing it takes seconds, and files are converted without it.
    from megatron.core.models.gpt import GPTModel

TP, ETP = "tp", "etp"


@dataclass(frozen=True)
class Row:
    """One line of the table: a Megatron name, what it holds of the checkpoint, and along which dimension it may be cut.

    `holds` are one or two checkpoint names, joined along dimension 0. `cut` is a dimension of the checkpoint's tensor
    (without the experts' dimension), `over` the ranks it is cut over. A parameter whose shape is whole is not cut:
    Transformer Engine duplicates the down-projections where column-parallel layers cut them.
    """

    megatron: str
    holds: tuple[str, ...]
    cut: int | None = None
    over: str = TP


TABLE = (
    Row("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), cut=0),
    Row("decoder.final_layernorm.weight", ("model.norm.weight",)),
    Row("output_layer.weight", ("lm_head.weight",), cut=0),
)
"""Rows outside the layers."""

LAYER_TABLE = (
    Row("input_layernorm.weight", ("input_layernorm.weight",)),
    Row("self_attention.linear_q_proj.weight", ("self_attn.q_proj.weight",), cut=0),
    Row("self_attention.linear_q_down_proj.weight", ("self_attn.q_a_proj.weight",), cut=0),
    Row("self_attention.q_layernorm.weight", ("self_attn.q_a_layernorm.weight",)),
    Row("self_attention.linear_q_up_proj.layer_norm_weight", ("self_attn.q_a_layernorm.weight",)),  # te
    Row("self_attention.linear_q_up_proj.weight", ("self_attn.q_b_proj.weight",), cut=0),
    Row("self_attention.linear_kv_down_proj.weight", ("self_attn.kv_a_proj_with_mqa.weight",), cut=0),
    Row(
        "self_attention.linear_qkv_down_proj.weight",  # mla_down_proj_fusion: one for both
        ("self_attn.q_a_proj.weight", "self_attn.kv_a_proj_with_mqa.weight"),
        cut=0,
    ),
    Row("self_attention.linear_qkv_down_proj.layer_norm_weight", ("input_layernorm.weight",)),  # the same in te
    Row("self_attention.kv_layernorm.weight", ("self_attn.kv_a_layernorm.weight",)),
    Row("self_attention.linear_kv_up_proj.layer_norm_weight", ("self_attn.kv_a_layernorm.weight",)),  # te
    Row("self_attention.linear_kv_up_proj.weight", ("self_attn.kv_b_proj.weight",), cut=0),
    Row("self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), cut=1),
    *(
        Row(f"self_attention.core_attention.indexer.{own}", (f"self_attn.indexer.{published}",))
        for own, published in (
            ("linear_wq_b.weight", "wq_b.weight"),
            ("linear_wk.weight", "wk.weight"),
            ("k_norm.weight", "k_norm.weight"),
            ("k_norm.bias", "k_norm.bias"),
            ("linear_weights_proj.weight", "weights_proj.weight"),
        )
    ),
    Row("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",)),
    Row("mlp.linear_fc1.layer_norm_weight", ("post_attention_layernorm.weight",)),  # te, dense layers
    Row("mlp.linear_fc1.weight", ("mlp.gate_proj.weight", "mlp.up_proj.weight"), cut=0),
    Row("mlp.linear_fc2.weight", ("mlp.down_proj.weight",), cut=1),
    Row("mlp.router.weight", ("mlp.gate.weight",)),
    Row("mlp.router.expert_bias", ("mlp.gate.e_score_correction_bias",)),
    Row(
        "mlp.experts.local_experts.{expert}.linear_fc1.weight",
        ("mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight"),
        cut=0,
        over=ETP,
    ),
    Row("mlp.experts.local_experts.{expert}.linear_fc2.weight", ("mlp.experts.down_proj.weight",), cut=1, over=ETP),
    Row(
        "mlp.experts.linear_fc1.weight{expert}",  # te
        ("mlp.experts.gate_proj.weight", "mlp.experts.up_proj.weight"),
        cut=0,
        over=ETP,
    ),
    Row("mlp.experts.linear_fc2.weight{expert}", ("mlp.experts.down_proj.weight",), cut=1, over=ETP),  # te
    Row(
        "mlp.shared_experts.linear_fc1.weight",
        ("mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"),
        cut=0,
    ),
    Row("mlp.shared_experts.linear_fc2.weight", ("mlp.shared_experts.down_proj.weight",), cut=1),
)
"""Rows of one layer, names within the layer on both sides."""

MTP_TABLE = (
    Row("enorm.weight", ("enorm.weight",)),
    Row("hnorm.weight", ("hnorm.weight",)),
    Row("eh_proj.weight", ("eh_proj.weight",), cut=0),
    *(replace(row, megatron=f"transformer_layer.{row.megatron}") for row in LAYER_TABLE),
    Row("final_layernorm.weight", ("shared_head.norm.weight",)),
)
"""Rows of one layer of multi-token prediction, which the checkpoint counts on from the others."""

_LAYER = re.compile(r"(decoder|mtp)\.layers\.(\d+)\.(.+)")
_RENAMED = re.compile(r"^mtp_model_layer\.")
"""What 0.17 and later call an MTP layer's decoder layer; in torch_dist checkpoints they write the old name, too."""
_EXPERT = re.compile(r"(?<=local_experts\.)(\d+)|(?<=linear_fc[12]\.weight)(\d+)$")
_BUGS = {
    "self_attention.linear_q_proj.layer_norm_weight": "; megatron-core gives the query a norm that the model has not: "
    "docs/findings/norm-of-the-uncompressed-query.md",
}
"""What a parameter comes from that only a bug of megatron-core's makes, by how its name ends."""
_ROWS = {
    block: {row.megatron: row for row in table} for block, table in (("", TABLE), ("decoder", LAYER_TABLE), ("mtp", MTP_TABLE))
}


@dataclass(frozen=True)
class Holding:
    """A part of a checkpoint parameter and the part of a Megatron tensor that holds it, both as boxes.

    `box` has the dimensions of the checkpoint parameter (experts first, where it has them); `rows` are the rows of the
    Megatron tensor `megatron`.
    """

    megatron: str
    rows: tuple[int, int]
    parameter: Parameter
    box: Box

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The held part of the Megatron tensor (its value or its gradient), in the shape of `box`: a view."""
        first, last = self.rows
        part = tensor if first == 0 and last == tensor.shape[0] else tensor[first:last]
        return part if part.shape == self._shape else part.view(self._shape)

    @functools.cached_property
    def _shape(self) -> tuple[int, ...]:
        return box_shape(self.box)


@dataclass(frozen=True)
class Ranks:
    """This rank's place among those that cut parameters, and the sizes of those groups."""

    tp: tuple[int, int]
    etp: tuple[int, int]
    ep: tuple[int, int]

    @classmethod
    def here(cls) -> Ranks:
        """From megatron-core's groups: (rank, size) each."""
        from megatron.core import parallel_state as mpu

        return cls(
            tp=(mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()),
            etp=(mpu.get_expert_tensor_parallel_rank(), mpu.get_expert_tensor_parallel_world_size()),
            ep=(mpu.get_expert_model_parallel_rank(), mpu.get_expert_model_parallel_world_size()),
        )


class UnknownTensorError(Exception):
    """A Megatron tensor that the table has no row for, or one whose shape fits no cut of the row's tensors."""


def tensors(chunk: GPTModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and persistent buffer of a chunk, layers counted from 0 over the whole model."""
    saved = chunk.state_dict(keep_vars=True)
    for name, tensor in saved.items():
        if isinstance(tensor, torch.Tensor) and not name.endswith("_extra_state"):
            yield _globally_numbered(name, chunk), tensor


def _globally_numbered(name: str, chunk: GPTModel) -> str:
    found = _LAYER.fullmatch(name)
    if found is None:
        return name
    block, index, inner = found.groups()
    layer = getattr(chunk, block).layers[int(index)].layer_number - 1
    return f"{block}.layers.{layer}.{inner}"


def holdings(name: str, shape: tuple[int, ...], model: Model, ranks: Ranks) -> list[Holding]:
    """What the Megatron tensor `name` (layers counted over the whole model) of `shape` holds on this rank.

    Raises UnknownTensorError.
    """
    layer_match = _LAYER.fullmatch(name)
    block, layer, inner = layer_match.groups() if layer_match else ("", None, name)
    expert_match = _EXPERT.search(inner)
    row = _ROWS[block].get(_EXPERT.sub("{expert}", _RENAMED.sub("transformer_layer.", inner)))
    if row is None:
        bug = next((said for end, said in _BUGS.items() if inner.endswith(end)), "")
        raise UnknownTensorError(f"{name}: no row of the mapping names it (validation/candidate/weights.py){bug}")
    before = model.num_hidden_layers if block == "mtp" else 0
    prefix = f"model.layers.{before + int(layer)}." if layer is not None else ""
    known = parameters(model)
    names = ["model.embed_tokens.weight"] if name == "output_layer.weight" and model.tie_word_embeddings else row.holds
    strange = next((prefix + part for part in names if prefix + part not in known), None)
    if strange:
        raise UnknownTensorError(f"{name}: the model has no {strange}")
    held = [known[prefix + part] for part in names]
    expert = int(expert_match.group()) if expert_match else None
    if any(len(parameter.shape) - (expert is not None) != len(shape) for parameter in held):
        raise UnknownTensorError(f"{name}: shape {shape} is no cut of {' and '.join(part.name for part in held)}")
    boxes = [_box(row, parameter, shape, expert, ranks, held) for parameter in held]
    return _stacked(name, shape, held, boxes)


def _box(
    row: Row, parameter: Parameter, shape: tuple[int, ...], expert: int | None, ranks: Ranks, held: list[Parameter]
) -> Box:
    box = list(whole(parameter.shape))
    offset = 0
    if expert is not None:
        first, _ = share(parameter.shape[0], ranks.ep[1], ranks.ep[0])
        box[0], offset = (first + expert, first + expert + 1), 1
    if row.cut is not None:
        axis = offset + row.cut
        full = sum(one.shape[axis] for one in held) if row.cut == 0 else parameter.shape[axis]
        rank, size = ranks.tp if row.over == TP else ranks.etp
        if shape[row.cut] != full:
            box[axis] = share(parameter.shape[axis], size, rank)
    return tuple(box)


def _stacked(name: str, shape: tuple[int, ...], held: list[Parameter], boxes: list[Box]) -> list[Holding]:
    found, start = [], 0
    for parameter, box in zip(held, boxes, strict=True):
        rows = box_shape(box)[1:] if len(box) > len(shape) else box_shape(box)
        if rows[1:] != shape[1:]:
            raise UnknownTensorError(f"{name}: shape {shape} is no cut of {parameter.name} {parameter.shape}")
        found.append(Holding(name, (start, start + rows[0]), parameter, box))
        start += rows[0]
    if start != shape[0]:
        raise UnknownTensorError(f"{name}: shape {shape} is no cut of {' and '.join(part.name for part in held)}")
    return found
