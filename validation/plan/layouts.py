"""The layouts of a model on so many GPUs, and how its layers are divided among their pipeline stages."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from validation.case.layout import Layout
from validation.case.model import Model
from validation.recipe.pipeline import EVEN, Split

_VIRTUAL = (1, 2, 4)
_LONG = 4096
"""Tokens of a sequence that each context-parallel rank has at least: shorter ones are not worth the exchange of keys."""
_MOST_PP = 64


def layouts(model: Model, gpus: int, per_node: int, seq_length: int) -> Iterator[Layout]:
    """Each layout that fills the GPUs. Tensor parallelism stays inside a node.

    Expert-parallel groups fill a pipeline stage at most, and each rank has as many experts and heads as every other.
    """
    nodes = range(1, min(per_node, gpus) + 1)
    tensor = [tp for tp in nodes if gpus % tp == 0 and per_node % tp == 0 and model.num_attention_heads % tp == 0]
    for tp, cp, pp in product(tensor, _powers(max(seq_length // _LONG, 1)), range(1, _MOST_PP + 1)):
        if gpus % (tp * cp * pp) or seq_length % (2 * cp * tp if cp > 1 else tp):
            continue
        stage = gpus // pp
        for vpp in _VIRTUAL if pp > 1 else (1,):
            if pp * vpp > model.num_hidden_layers + 1:
                continue
            for etp, ep in _of_experts(model, tp, stage):
                yield Layout(tp, pp, vpp, ep, None if etp == (1 if ep > 1 else tp) else etp, cp, gpus // (tp * cp * pp))


def _powers(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2


@lru_cache(maxsize=256)
def _of_experts(model: Model, tp: int, stage: int) -> tuple[tuple[int, int], ...]:
    """Etp and ep: whole experts on a rank, or experts cut as the dense layers are."""
    if not model.expert_blocks:
        return ((tp, 1),)
    spread = [ep for ep in range(1, model.n_routed_experts + 1) if model.n_routed_experts % ep == 0]
    found = ((etp, ep) for etp in {1, tp} for ep in spread if stage % (etp * ep) == 0)
    return tuple(sorted((etp, ep) for etp, ep in found if model.moe_intermediate_size % etp == 0))


def split(model: Model, layout: Layout) -> Split | None:
    """How the layers are divided: as even as can be, the MTP layers together on the last rank; None if a stage stays empty.

    If the layers do not divide, each stage has as many of embedding, layers, MTP layers and loss as every other, the first ones
    one more.
    """
    count, layers, mtp = layout.pp * layout.vpp, model.num_hidden_layers, len(model.mtp_layers)
    if layers % count == 0:
        return EVEN
    letters = "E" + "t" * layers + "m" * mtp + "L"
    each, more = divmod(len(letters), count)
    rows, at = [], 0
    for place in range(count):
        size = each + (place < more)
        rows.append(letters[at : at + size])
        at += size
    if mtp:
        rows = _together(rows)
    return Split("|".join(rows)) if all("t" in row or "L" in row for row in rows) else None


def _together(rows: list[str]) -> list[str]:
    """All MTP layers beside the loss: Megatron-Core wants them in one chunk, and sums their embedding's gradient there."""
    mtp = "".join(rows).count("m")
    plain = [row.replace("m", "") for row in rows]
    return [*plain[:-1], plain[-1].replace("L", "m" * mtp + "L")]
