"""Megatron's tensors, known from the model, the implementation and a rank's place alone: no model is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from validation.candidate.weights import ETP, LAYER_TABLE, MTP_TABLE, TABLE, Holding, Ranks, Row, holdings
from validation.case.errors import UsageError
from validation.case.joined_latents import PROJECTION
from validation.case.model import Model
from validation.case.parameters import Parameter
from validation.case.strangers import shown

EMBEDDING, HEAD = "embedding.word_embeddings.weight", "output_layer.weight"
_TE_ALONE = ("layer_norm_weight", "linear_fc1.weight{expert}", "linear_fc2.weight{expert}")
_LOCAL_ALONE = ("q_layernorm.weight", "kv_layernorm.weight")
_WHOLE = ("linear_q_down_proj.weight", "linear_kv_down_proj.weight")
"""What every rank has whole, but for megatron-core's own local spec."""
_JOINED = f".{PROJECTION}."


MTP_BLOCK = "transformer_layer"
"""What an MTP layer calls its decoder layer in torch_dist, in every release, and in a rank's own state up to 0.16."""
YOUNGER_MTP_BLOCK = "mtp_model_layer"
"""What it is called in a rank's own state from 0.17 on (Megatron-LM #3207)."""
_YOUNGER = SpecifierSet(">=0.17", prereleases=True)


def mtp_block_of(version: str) -> str:
    """What a release of megatron-core calls an MTP layer's decoder layer in a rank's own state. Raises UsageError."""
    try:
        return YOUNGER_MTP_BLOCK if Version(version) in _YOUNGER else MTP_BLOCK
    except InvalidVersion:
        raise UsageError(f"{shown(version)} is no version of megatron-core; give one such as 0.16.1 or 0.19.2") from None


def are_joined(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of layers with one down-projection for both latents (`mla_down_proj_fusion`)."""
    return any(_JOINED in name for name in names)


def of_te(names: Iterable[str]) -> bool:
    """Whether names of tensors are those of Transformer Engine's layers.

    In sparse attention a layer with experts has no norm within a linear layer: its experts alone tell, which torch_dist calls
    alike.
    """
    return any(name.endswith("layer_norm_weight") or _GROUPED.search(name) for name in names)


_GROUPED = re.compile(r"mlp\.experts\.linear_fc[12]\.weight\d+$")


@dataclass(frozen=True)
class Tensor:
    """A tensor of one rank: layers counted over the whole model, experts from the rank's first."""

    name: str
    row: Row
    shape: tuple[int, ...]
    holdings: tuple[Holding, ...]


@dataclass(frozen=True)
class Chunk:
    """What a rank builds as one GPTModel: some layers, and the ends of the model where it has them."""

    layers: range
    first: bool
    last: bool


@dataclass(frozen=True)
class Megatron:
    """A model as Megatron has it. `known` are the parameters of its checkpoint.

    `mtp_block` is what a rank's own state calls an MTP layer's decoder layer, and `joined` says that it has one down-projection
    for both latents; names of torch_dist do not depend on either.
    """

    model: Model
    known: Mapping[str, Parameter]
    implementation: str
    mtp_block: str = MTP_BLOCK
    joined: bool = False

    def tensors(self, ranks: Ranks, chunk: Chunk | None = None) -> Iterator[Tensor]:
        """What a rank at that place holds of a chunk, or of the whole model."""
        chunk = chunk or Chunk(range(self.model.num_hidden_layers), first=True, last=True)
        yield from self._outside(ranks, chunk)
        for layer in chunk.layers:
            yield from self._layer("decoder", layer, LAYER_TABLE, ranks)
        for index in range(self.model.num_nextn_predict_layers if chunk.last else 0):
            yield from self._layer("mtp", index, MTP_TABLE, ranks)

    def _outside(self, ranks: Ranks, chunk: Chunk) -> Iterator[Tensor]:
        mtp = bool(self.model.mtp_layers)
        there = {EMBEDDING: chunk.first or (chunk.last and mtp), HEAD: chunk.last, "decoder.final_layernorm.weight": chunk.last}
        for row in TABLE:
            names = row.holds
            if row.megatron == HEAD and self.model.tie_word_embeddings:
                # The first stage uses its embedding; another has a copy under this name.
                there[HEAD], names = chunk.last and not chunk.first, ("model.embed_tokens.weight",)
            if there[row.megatron]:
                yield self._tensor(row.megatron, row, [self.known[name] for name in names], ranks)

    def _layer(self, block: str, index: int, table: Iterable[Row], ranks: Ranks) -> Iterator[Tensor]:
        layer = index + (self.model.num_hidden_layers if block == "mtp" else 0)
        for row in table:
            held = [self.known.get(f"model.layers.{layer}.{name}") for name in row.holds]
            found = [parameter for parameter in held if parameter is not None]
            if len(found) < len(held) or not self._spelt(row, dense=layer in self.model.dense_layers):
                continue
            experts = found[0].shape[0] // ranks.ep[1] if "{expert}" in row.megatron else 1
            for expert in range(experts):
                name = f"{block}.layers.{index}.{row.megatron.format(expert=expert)}"
                yield self._tensor(name, row, found, ranks)

    def _spelt(self, row: Row, dense: bool) -> bool:
        """Whether the implementation has this row: Transformer Engine joins norms with what follows them.

        Those of latents stand by themselves in sparse attention, whose indexer reads what they make.
        """
        te = self.implementation == "te"
        if self.joined and (row.megatron.endswith(_WHOLE) or (te and row.megatron.endswith("input_layernorm.weight"))):
            return False
        if not self.joined and _JOINED in row.megatron:
            return False
        if self.model.sparse and row.megatron.endswith((*_LOCAL_ALONE, "up_proj.layer_norm_weight")):
            return row.megatron.endswith(_LOCAL_ALONE)
        if row.megatron.endswith(_TE_ALONE):
            return te and (dense or "mlp.linear_fc1" not in row.megatron)
        if row.megatron.endswith(_LOCAL_ALONE) or "local_experts" in row.megatron:
            return not te
        return not (te and dense and row.megatron.endswith("pre_mlp_layernorm.weight"))

    def _tensor(self, name: str, row: Row, held: list[Parameter], ranks: Ranks) -> Tensor:
        skipped = 1 if "{expert}" in row.megatron else 0
        shape = [sum(parameter.shape[skipped] for parameter in held), *held[0].shape[skipped + 1 :]]
        if self._is_cut(row):
            size, word = (ranks.etp[1], "etp") if row.over == ETP else (ranks.tp[1], "tp")
            for parameter in held:
                if parameter.shape[skipped + (row.cut or 0)] % size:
                    works = "+vocab1 behind the layout pads it" if parameter.layer is None else "choose another layout"
                    raise UsageError(f"{word}{size} does not divide {parameter.name} {parameter.shape}; {works}")
            shape[row.cut or 0] //= size
        return Tensor(name, row, tuple(shape), tuple(holdings(name, tuple(shape), self.model, ranks)))

    def _is_cut(self, row: Row) -> bool:
        return row.cut is not None and (self.implementation == "local-stock" or not row.megatron.endswith(_WHOLE))

    def extra_state(self, row: Row) -> bool:
        """Whether the module of this weight puts an `_extra_state` beside it: linear layers, and Transformer Engine's norms.

        None of them has anything in it where nothing is computed in fp8. Of duplicated layers only Transformer Engine's do.
        """
        if row.megatron == EMBEDDING:
            return False
        norm = row.megatron.endswith("layernorm.weight") or row.megatron in ("enorm.weight", "hnorm.weight")
        if self.implementation == "te":
            return not row.megatron.endswith(("layer_norm_weight", "expert_bias", "router.weight", ".bias"))
        return self._is_cut(row) and not norm


def one_rank() -> Ranks:
    """The place of a rank that holds everything."""
    return Ranks(tp=(0, 1), etp=(0, 1), ep=(0, 1))
