"""What rounding alone does to log-probabilities, measured on these tokens, and the limits that follow from it.

The HuggingFace model runs in the engine's precision several times, in ways that a user would call the same, and its routers
choose for themselves each time: an engine's do, too. A token whose experts change by a near-tie is off by far more than the
others, and another token than in these runs may. So each limit allows for one such token (docs/logprobs.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from validation.case.case import PRECISIONS
from validation.compare.limits import FLOORS, IN_FP64
from validation.reference.floor import VARIANTS
from validation.rollout import figures
from validation.rollout.dump import Said
from validation.rollout.figures import Values
from validation.rollout.source import Source
from validation.rollout.truth import every

TOKEN_FLOORS = 4.0
"""How many times the largest difference of any run one token may be off (docs/decisions/0005-log-probabilities.md).

A kind of tokens may be off by as much as a tensor: FLOORS times its floor.
"""
UNDECIDED = 0.5
"""A limit of this share of the spread of the true log-probabilities decides nothing."""


@dataclass(frozen=True)
class Floor:
    """`by_kind` has the largest root mean square of a run, and `largest` the largest of any token; `exact` in fp64.

    `undecided` says why nothing is known of a precision.
    """

    by_kind: Mapping[str, float]
    largest: float
    exact: bool = False
    undecided: str = ""

    def of_kind(self, kind: str, count: int) -> float:
        """The limit of the root mean square of so many tokens."""
        if self.exact:
            return self.largest
        return math.hypot(FLOORS * self.by_kind[kind], self.of_token / math.sqrt(max(1, count)))

    @property
    def of_token(self) -> float:
        """The limit of one token."""
        return self.largest if self.exact else TOKEN_FLOORS * self.largest


def measure(
    source: Source,
    sequences: Sequence[Said],
    precision: str,
    truth: Values,
    temperature: float,
    resolution: float = 0.0,
    progress: Callable[[str], None] = lambda step: None,
) -> Floor:
    """The floor of a precision. `resolution` is the relative rounding of the numbers that are compared."""
    counted = figures.masks(sequences)
    magnitude = max(float(one[1:].abs().max()) for one in truth)
    if precision == "fp64":
        return Floor({}, IN_FP64.relative_error * max(1.0, magnitude) + resolution * magnitude, exact=True)
    if precision not in PRECISIONS:
        return Floor({}, 0.0, undecided=f"no floor is measured for an engine that computes in {precision}")
    model = source.open(precision, precision)
    found: list[dict[str, figures.Figures]] = []
    for variant in VARIANTS:
        progress(f"floor: {variant.name}")
        found.append(figures.by_kind(every(model, sequences, temperature, variant=variant), truth, counted))
    rounding = resolution * magnitude
    kinds = {kind: max(run[kind].rms for run in found) + rounding for kind in counted}
    return Floor(kinds, max(run[kind].largest for run in found for kind in counted) + rounding)


def spread(truth: Values, sequences: Sequence[Said]) -> float:
    """How much the true log-probabilities of the tokens that count differ from each other: their standard deviation."""
    values = torch.cat([one[torch.tensor(said.counted)] for one, said in zip(truth, sequences, strict=True)])
    return float(values.std(correction=0))
