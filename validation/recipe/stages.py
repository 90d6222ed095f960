"""Small pipelines: how few layers make stages of the kinds that the full size has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from validation.case.model import Model
from validation.recipe.pipeline import EVEN, Split

_MOST = 3
"""Layers of a chunk."""


@dataclass(frozen=True)
class Stages:
    """Layers of a small model, how many of them are dense, and how they are divided among `pp` ranks."""

    layers: int
    dense: int
    split: Split


def candidates(model: Model, pp: int, vpp: int) -> Iterator[Stages]:
    """Pipelines with up to three layers in a chunk, with as many kinds of layers as the model has."""
    for counts in _counts(pp, vpp):
        layers = sum(counts) * vpp
        split = EVEN if len(set(counts)) == 1 else Split(first=counts[0], last=counts[-1])
        yield from (Stages(layers, dense, split) for dense in _dense(model, layers))


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
