"""How many weights each rank of a pipeline holds, counted as megatron-core builds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.parameters import EXPERTS, Parameter, parameters
from validation.case.share import share
from validation.recipe.pipeline import Chunk

EMBEDDING, NORM, HEAD, DENSE, EXPERT, MTP = "embedding", "final norm", "output head", "dense layer", "expert layer", "MTP layer"


@dataclass(frozen=True)
class Held:
    """Elements of weights: those of routed experts, which other ranks share than the rest, and all others."""

    dense: int = 0
    experts: int = 0

    @property
    def elements(self) -> int:
        """All of them."""
        return self.dense + self.experts

    def __add__(self, other: Held) -> Held:
        return Held(self.dense + other.dense, self.experts + other.experts)

    def times(self, count: int) -> Held:
        """So many of the same."""
        return Held(self.dense * count, self.experts * count)


def total(model: Model, mtp: bool = False) -> int:
    """Parameters of the whole model; those of its MTP layers only with `mtp`."""
    return sum(share(one, Layout(), "te") for one in _trained(model) if mtp or one.mtp is None)


def active(model: Model) -> int:
    """Parameters that one token meets in the main model: of the routed experts those that are chosen."""
    whole = [one for one in _trained(model) if one.mtp is None]
    experts = sum(share(one, Layout(), "te") for one in whole if EXPERTS in one.name)
    rest = sum(share(one, Layout(), "te") for one in whole) - experts
    return rest + experts * model.num_experts_per_tok // model.n_routed_experts


def _trained(model: Model) -> list[Parameter]:
    return [one for one in parameters(model).values() if one.trained]


@lru_cache(maxsize=1024)
def pieces(model: Model, tp: int, ep: int, etp: int, implementation: str = "te") -> Mapping[str, Held]:
    """What one rank holds of each piece that a stage may have: of one layer of each kind, of the embedding, of the head.

    The output head of a model with tied embeddings is as large as the embedding.
    """
    layout, found = Layout(tp=tp, ep=ep, etp=etp), dict.fromkeys((EMBEDDING, NORM, HEAD, DENSE, EXPERT, MTP), Held())
    first = {kind: next(iter(layers), None) for kind, layers in _layers(model).items()}
    for one in _trained(model):
        kind = _kind(one) if one.layer is None else next((kind for kind, layer in first.items() if layer == one.layer), None)
        if kind is not None:
            elements = share(one, layout, implementation)
            found[kind] += Held(experts=elements) if EXPERTS in one.name else Held(elements)
    if model.tie_word_embeddings:
        found[HEAD] = found[EMBEDDING]
    return MappingProxyType(found)


def _layers(model: Model) -> dict[str, Sequence[int]]:
    return {DENSE: model.dense_layers, EXPERT: model.moe_layers, MTP: model.mtp_layers}


def _kind(parameter: Parameter) -> str:
    return {"model.embed_tokens.weight": EMBEDDING, "lm_head.weight": HEAD}.get(parameter.name, NORM)


def of_chunks(model: Model, layout: Layout, found: Sequence[Chunk], implementation: str = "te") -> tuple[Held, ...]:
    """What one rank holds of each chunk of a pipeline, in the order of the model.

    A chunk with MTP layers has a copy of the embedding, unless it has the embedding itself. With MTP layers the final norm is
    where the last layer is, else where the loss is.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/models/gpt/gpt_model.py
    """
    parts = pieces(model, layout.tp, layout.ep, layout.expert_tp, implementation)
    last = max((place for place, chunk in enumerate(found) if chunk.layers), default=len(found) - 1)
    norm = last if model.mtp_layers else len(found) - 1
    return tuple(_held(_counts(model, chunk, place == norm), parts) for place, chunk in enumerate(found))


def _counts(model: Model, chunk: Chunk, norm: bool) -> dict[str, int]:
    tied = model.tie_word_embeddings and chunk.embedding
    return {
        EMBEDDING: int(chunk.embedding or chunk.mtp > 0),
        NORM: int(norm),
        HEAD: int(chunk.loss and not tied),
        DENSE: chunk.dense,
        EXPERT: chunk.experts,
        MTP: chunk.mtp,
    }


def _held(counts: Mapping[str, int], parts: Mapping[str, Held]) -> Held:
    return added(parts[kind].times(count) for kind, count in counts.items())


def added(held: Iterable[Held]) -> Held:
    """All of them together."""
    return sum(held, Held())


def of_rank(chunks: Sequence[Held], pp: int) -> tuple[Held, ...]:
    """What a rank of each pipeline stage holds: chunk `i` is on rank `i % pp`."""
    return tuple(added(chunks[rank::pp]) for rank in range(pp))
