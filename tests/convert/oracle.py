"""mbridge's mapping (0.15.1) as an oracle: names, merges and cuts that others wrote, asked without a GPU or process groups.

Its class for DeepSeek-V3 wants Transformer Engine to build a model; its mapping does not. It counts 61 layers, and the MTP
layer is its 62nd, so the model is presented to it under these numbers.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from validation.candidate.checkpoint.places import Arrangement
from validation.candidate.checkpoint.tensors import Megatron, Tensor
from validation.candidate.weights import Ranks
from validation.case.model import Model
from validation.case.parameters import EXPERTS, Parameter
from validation.compare.piece import whole
from validation.convert.describe import Described
from validation.convert.source import Source

LAYERS = 61


@dataclass(frozen=True)
class Cut:
    """One Megatron tensor of one rank as mbridge makes it from HuggingFace tensors."""

    tensor: Tensor
    ranks: Ranks
    value: torch.Tensor


@dataclass(frozen=True)
class Held:
    """A checkpoint's parameters in memory."""

    described: Described
    parameters: Mapping[str, Parameter]
    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, source: Source) -> Held:
        """All of them."""
        read = {name: source.read(name, whole(found.shape)) for name, found in source.parameters.items()}
        return cls(source.described, source.parameters, read)


def bridge(model: Model, ranks: Ranks) -> Any:
    """Mbridge's DeepseekV3Bridge for a rank, its constructor left out."""
    oracle: Any = importlib.import_module("mbridge.models.deepseek_v3").DeepseekV3Bridge
    found = oracle.__new__(oracle)
    found.hf_config = SimpleNamespace(
        num_hidden_layers=LAYERS,
        num_nextn_predict_layers=1,
        q_lora_rank=model.q_lora_rank,
        n_routed_experts=model.n_routed_experts,
        first_k_dense_replace=model.first_k_dense_replace,
        tie_word_embeddings=model.tie_word_embeddings,
        num_attention_heads=model.num_attention_heads,
        hidden_size=model.hidden_size,
    )
    found.dtype, found.make_vocab_size_divisible_by = None, None
    found.mpu = SimpleNamespace(tp_size=ranks.tp[1], etp_size=ranks.etp[1], ep_size=ranks.ep[1])
    found.config = SimpleNamespace(gated_linear_unit=True, num_layers=LAYERS, mtp_num_layers=1)
    return found


def cuts(held: Held, layout: str) -> Iterator[Cut]:
    """Every tensor of every rank of the layout, by mbridge."""
    model = held.described.model
    megatron = Megatron(model, held.parameters, "te")
    for ranks, experts in Arrangement.parse(layout, model).cuts():
        asked = bridge(model, ranks)
        for tensor in megatron.tensors(ranks):
            if ("{expert}" in tensor.row.megatron) == experts:
                yield Cut(tensor, ranks, _value(asked, held, tensor, ranks, experts))


def _value(asked: Any, held: Held, tensor: Tensor, ranks: Ranks, experts: bool) -> torch.Tensor:
    name = _global(tensor.name, model_experts=held.described.model.n_routed_experts, ranks=ranks)
    keys = asked._weight_name_mapping_mcore_to_hf(name)
    values = [_read(held, key) for key in keys]
    merged = asked._weight_to_mcore_format(name, values)
    (rank, size) = ranks.etp if experts else ranks.tp
    if size == 1:
        return merged
    parts = asked._weight_split_across_tp(name, merged, torch.empty(tensor.shape, device="meta"), size)
    return parts[rank]


def _global(name: str, model_experts: int, ranks: Ranks) -> str:
    """The name with experts counted over all ranks."""
    found = re.search(r"(?<=linear_fc[12]\.weight)(\d+)$", name)
    if found is None or ".experts." not in name:
        return name
    return f"{name[: found.start()]}{int(found[1]) + ranks.ep[0] * (model_experts // ranks.ep[1])}"


def _read(held: Held, key: str) -> torch.Tensor:
    """The tensor of a HuggingFace key; the layer after mbridge's 61 is the model's MTP layer."""
    model = held.described.model
    key = key.replace(f"model.layers.{LAYERS}.", f"model.layers.{model.num_hidden_layers}.")
    found = re.search(r"mlp\.experts\.(\d+)\.", key)
    if found is None:
        return held.tensors[key]
    return held.tensors[key.replace(found.group(), EXPERTS)][int(found[1])]


def loop(held: Held, tp: int) -> tuple[float, int]:
    """Seconds in which mbridge maps every tensor of every tp rank, copied as loading it would, and their bytes."""
    start, bytes_ = time.monotonic(), 0
    for cut in cuts(held, f"tp{tp}"):
        bytes_ += cut.value.clone().nbytes
    return time.monotonic() - start, bytes_
