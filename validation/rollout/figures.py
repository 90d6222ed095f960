"""What two sides' log-probabilities of the same tokens differ by, in nats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from validation.rollout.dump import KINDS, Said

Values = Sequence[torch.Tensor]
"""A tensor [sequence] for each sequence, float64, NaN if there is none."""


@dataclass(frozen=True)
class Figures:
    """Of some tokens: how many, and what is customary of the differences d = log p of a side - log p of the other.

    `rms` is the root of the mean square, `largest` the largest |d|, `mean_abs` the mean |d| (slime), `mean_exp` the mean
    exp |d| (NeMo-RL). `k1` and `k3` estimate KL(side || other) from tokens that the side has drawn: mean d, and mean
    exp(-d) - 1 + d (http://joschu.net/blog/kl-approx.html).
    """

    count: int
    rms: float
    largest: float
    mean_abs: float
    mean_exp: float
    k1: float
    k3: float


def of(differences: torch.Tensor) -> Figures:
    """The figures of differences, [tokens]; of none they are 0."""
    if not differences.numel():
        return Figures(0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    size = differences.abs()
    return Figures(
        count=differences.numel(),
        rms=float(differences.square().mean().sqrt()),
        largest=float(size.max()),
        mean_abs=float(size.mean()),
        mean_exp=float(size.exp().mean()),
        k1=float(differences.mean()),
        k3=float((torch.exp(-differences) - 1 + differences).mean()),
    )


def values(sequences: Sequence[Said], side: Callable[[Said], Sequence[float | None] | None]) -> list[torch.Tensor]:
    """What a file has of one side, as tensors."""
    nothing = float("nan")
    found = []
    for one in sequences:
        numbers = side(one) or [None] * len(one.tokens)
        found.append(torch.tensor([nothing if number is None else number for number in numbers], dtype=torch.float64))
    return found


def masks(sequences: Sequence[Said]) -> dict[str, list[torch.Tensor]]:
    """By kind: the positions of each sequence that count, [sequence] of bool."""
    return {
        kind: [torch.tensor([one.counted[at] and one.kind(at) == kind for at in range(len(one.tokens))]) for one in sequences]
        for kind in KINDS
    }


def differences(side: Values, other: Values, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
    """Side minus other at the chosen positions of all sequences, [tokens]."""
    return torch.cat([(a - b)[mask] for a, b, mask in zip(side, other, chosen, strict=True)])


def by_kind(side: Values, other: Values, counted: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, Figures]:
    """The figures of every kind."""
    return {kind: of(differences(side, other, chosen)) for kind, chosen in counted.items()}
