"""Small pipelines: how few layers make stages of the kinds that the full size has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from validation.case.model import Model
from validation.recipe.pipeline import EVEN, Chunk, Split, written
from validation.recipe.small import MOST_MTP

_MOST = 3
"""Layers of a chunk."""


@dataclass(frozen=True)
class Stages:
    """Layers of a small model, how many of them are dense, and how they are divided among `pp` ranks."""

    layers: int
    dense: int
    split: Split


def candidates(model: Model, pp: int, vpp: int, full: Sequence[Chunk] = ()) -> Iterator[Stages]:
    """Pipelines with up to three layers in a chunk, with as many kinds of layers as the model has.

    Those that a layout string says have the first and the last chunks of the `full` pipeline, which may hold nothing but the
    embedding, MTP layers or the loss.
    """
    for counts in _counts(pp, vpp):
        layers = sum(counts) * vpp
        split = EVEN if len(set(counts)) == 1 else Split(first=counts[0], last=counts[-1])
        yield from (Stages(layers, dense, split) for dense in _dense(model, layers))
    if 1 < pp * vpp <= len(full):
        mtp = min(model.num_nextn_predict_layers, MOST_MTP)
        for rows in dict.fromkeys(_cut(full, pp * vpp)):
            layers = sum(row.layers for row in rows)
            if not layers or sum(row.mtp for row in rows) != mtp:
                continue
            yield from (Stages(layers, dense, Split(written(rows))) for dense in _dense(model, layers))


def _cut(full: Sequence[Chunk], count: int) -> Iterator[tuple[Chunk, ...]]:
    """So many chunks from both ends of a pipeline, with fewer layers each."""
    for head, most in product(range(1, count), range(1, _MOST + 1)):
        rows = (*full[:head], *full[len(full) - count + head :])
        fewest = min((row.layers for row in rows if row.layers), default=0)
        yield tuple(_shrunk(row, min(row.layers, most)) for row in rows)
        yield tuple(_shrunk(row, min(row.layers, most - (row.layers == fewest))) for row in rows)  # as uneven as they were


def _shrunk(row: Chunk, layers: int) -> Chunk:
    return replace(row, dense=0, experts=layers, mtp=min(row.mtp, MOST_MTP))


def _counts(pp: int, vpp: int) -> Iterator[tuple[int, ...]]:
    """Layers of one virtual stage of each rank: as many everywhere; without virtual stages also others at the ends."""
    yield from ((each,) * pp for each in range(1, _MOST + 1))
    if pp > 1 and vpp == 1:
        numbers = range(1, _MOST + 1)
        ends = ((first, each, last) for first, last in product(numbers, repeat=2) for each in (numbers if pp > 2 else (1,)))
        yield from {(first, *(each,) * (pp - 2), last): None for first, each, last in ends if len({first, each, last}) > 1}


def _dense(model: Model, layers: int) -> range:
    if not model.dense_layers:
        return range(1)
    return range(1, layers) if model.moe_layers else range(layers, layers + 1)


def counts(pp: int, layers: int, split: Split) -> tuple[int, ...]:
    """Layers of each rank's stage where the ends are said to be other than those between; empty where they are not."""
    if split.first is None or split.last is None:
        return ()
    between = pp - 2
    return (split.first, *(((layers - split.first - split.last) // between,) * between if between else ()), split.last)
