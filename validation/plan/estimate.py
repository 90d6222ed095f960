"""The memory of each pipeline rank under a layout, by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from validation.case.layout import Layout
from validation.case.model import Model
from validation.plan import activations, weights
from validation.plan.activations import CUT, FULL, HALF, ROUTED, WHOLE, Item
from validation.plan.policy import FULL as ALL
from validation.plan.policy import Policy, Recompute
from validation.plan.schedule import peak
from validation.recipe.pipeline import Chunk

_KINDS = (weights.DENSE, weights.EXPERT, weights.MTP)


@dataclass(frozen=True)
class Parts:
    """Bytes on one GPU.

    `activations` are those of all micro-batches under way. `recomputed` is what the backward pass makes again of one layer, and
    what full recomputation leaves of others. `logits` are those of the loss and of MTP losses, `dispatch` the rows that travel
    to experts and back.
    """

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    recomputed: float = 0.0
    logits: float = 0.0
    dispatch: float = 0.0

    @property
    def total(self) -> float:
        """All of it at once."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Step:
    """The data of a step. `imbalance` is how many rows the fullest rank's experts get, over the mean.

    `unfused` says that the activation is not computed in one kernel.
    """

    seq_length: int
    micro_batch_size: int
    micro_batches: int
    imbalance: float = 1.0
    implementation: str = "te"
    unfused: bool = False

    @property
    def local(self) -> bool:
        """Whether the layers are those of `local`, which compute in float32."""
        return self.implementation == "local"


def of_stages(
    model: Model, layout: Layout, chunks: Sequence[Chunk], policy: Policy, recompute: Recompute, step: Step
) -> tuple[Parts, ...]:
    """What one GPU of each pipeline stage takes."""
    pp, held = layout.pp, weights.of_rank(weights.of_chunks(model, layout, chunks), layout.pp)
    layers = {kind: of_layer(model, layout, kind, step) for kind in _KINDS}
    entry = _entry(model, layout, policy, step)
    final = sum(item.size for item in _on_rank(activations.final_norm(model, step.local), layout, step))
    costs = {chunk: _cost(chunk, layers, recompute, entry, final) for chunk in set(chunks)}
    logits, rows = _logits(model, layout, policy, step), _dispatch(model, layout, step)
    return tuple(
        Parts(
            weights=policy.weights * held[rank].elements,
            gradients=policy.gradients * held[rank].elements,
            optimizer=policy.state * _states(held[rank], layout, policy),
            activations=peak([costs[chunk][0] for chunk in chunks[rank::pp]], rank, pp, step.micro_batches),
            recomputed=max(costs[chunk][1] for chunk in chunks[rank::pp]) + _left_behind(chunks[rank::pp], recompute, entry),
            logits=logits if any(chunk.loss for chunk in chunks[rank::pp]) else 0.0,
            dispatch=rows if any(chunk.experts + chunk.mtp for chunk in chunks[rank::pp]) else 0.0,
        )
        for rank in range(pp)
    )


def _states(held: weights.Held, layout: Layout, policy: Policy) -> float:
    """Of how many weights a rank has the optimizer's state."""
    if not policy.distributed:
        return held.elements
    ranks = layout.tp * layout.cp * layout.data_parallel
    dense, experts = layout.cp * layout.data_parallel, ranks // (layout.expert_tp * layout.ep)
    return held.dense / max(dense // policy.instances, 1) + held.experts / max(experts // policy.instances, 1)


def _tokens(layout: Layout, step: Step) -> dict[str, float]:
    """How many tokens of a micro-batch each kind of tensor holds on a rank, rows of experts without top-k."""
    whole = step.micro_batch_size * step.seq_length / layout.cp
    cut = whole / layout.tp if layout.uses_sequence_parallel else whole
    return {WHOLE: whole, CUT: cut, ROUTED: cut * layout.expert_tp * step.imbalance}


def of_layer(model: Model, layout: Layout, kind: str, step: Step) -> tuple[Item, ...]:
    """What a layer of a kind keeps, in bytes on a rank for one micro-batch."""
    found = _items(model, layout.tp, layout.expert_tp, kind, step.seq_length, step.local, step.unfused)
    return _on_rank(found, layout, step, model.num_experts_per_tok)


def _on_rank(items: Iterable[Item], layout: Layout, step: Step, top: int = 0) -> tuple[Item, ...]:
    """Items of a token as those of a rank's micro-batch; `top` experts get a token."""
    tokens = _tokens(layout, step)
    tokens[ROUTED] *= top
    return tuple(Item(item.name, item.size * tokens[item.tokens], item.tokens, item.modules) for item in items)


@lru_cache(maxsize=1024)
def _items(model: Model, tp: int, etp: int, kind: str, seq_length: int, local: bool, unfused: bool) -> tuple[Item, ...]:
    found = list(activations.attention(model, tp, seq_length, local))
    dense = kind == weights.DENSE
    found += (
        activations.dense_mlp(model, tp, local, unfused) if dense else activations.experts_mlp(model, tp, etp, local, unfused)
    )
    return (*found, *(activations.mtp_entry(model, local) if kind == weights.MTP else ()))


def _entry(model: Model, layout: Layout, policy: Policy, step: Step) -> float:
    """The input of a layer, which full recomputation keeps."""
    whole = HALF * model.hidden_size * _tokens(layout, step)[CUT]
    return whole / layout.tp if policy.saved_divided and not layout.uses_sequence_parallel else whole


def _left_behind(chunks: Sequence[Chunk], recompute: Recompute, entry: float) -> float:
    """What full recomputation leaves of layers whose backward pass is over, of one micro-batch.

    A dispatcher holds the probabilities of its last rows, and with them the graph of the layer that was computed again: the
    layer's input and the gradient of it, until its next forward pass. What a chunk keeps has the inputs of its own layers, and
    the layer that is at work has its gradient.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/token_dispatcher.py
    """
    if recompute.granularity != ALL:
        return 0.0
    found = [chunk.experts + chunk.mtp for chunk in chunks]
    if recompute.block is not None:
        found = [min(count, recompute.block) for count in found]
    counts = [-(-count // recompute.at_once) for count in found]
    return entry * max(2 * sum(counts) - max(counts) - 1, 0)


def _cost(
    chunk: Chunk, layers: Mapping[str, Sequence[Item]], recompute: Recompute, entry: float, final: float
) -> tuple[float, float]:
    """Bytes that a chunk keeps of one micro-batch, and bytes that are made again of it at once; `final`: of the last norm."""
    kept, again, left = final * chunk.loss, 0.0, recompute.block
    for kind, count in zip(_KINDS, (chunk.dense, chunk.experts, chunk.mtp), strict=True):
        if not count:
            continue
        whole = sum(item.size for item in layers[kind])
        if recompute.granularity == ALL:
            taken = count if left is None else min(count, left)
            left = None if left is None else left - taken
            kept += entry * -(-taken // recompute.at_once) + whole * (count - taken)
            again = max(again, whole * min(recompute.at_once, taken))
        else:
            gone = sum(item.size for item in layers[kind] if set(item.modules) & set(recompute.modules))
            kept += count * (whole - gone)
            again = max(again, gone)
    return kept, again


def _logits(model: Model, layout: Layout, policy: Policy, step: Step) -> float:
    """Logits in bf16 and in fp32, of which the loss makes its gradient in place; of an MTP layer the latter stay.

    The losses of MTP layers are computed where the main loss is, whichever stage holds the layers.
    """
    rows = _tokens(layout, step)[WHOLE] * model.vocab_size / layout.tp
    stay, gone = (HALF, 0) if policy.fused_loss else (FULL, HALF)
    return rows * (gone + stay * (1 + len(model.mtp_layers)))


def _dispatch(model: Model, layout: Layout, step: Step) -> float:
    """The rows that leave a rank and those that have arrived, before they are sorted by expert."""
    rows = _tokens(layout, step)
    arrived = rows[ROUTED] if layout.ep * layout.expert_tp > 1 else 0.0
    return HALF * model.hidden_size * model.num_experts_per_tok * (rows[CUT] + arrived)
