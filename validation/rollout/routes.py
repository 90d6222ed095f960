"""The experts that an engine says its tokens went to, against HuggingFace's scores and their margins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from validation.case.failures import ROUTES
from validation.case.plural import many
from validation.compare.limits import FLOORS, IN_FP64
from validation.reference.floor import VARIANTS, Variant
from validation.reference.routing import chosen, margins
from validation.rollout.dump import Dump, Said
from validation.rollout.judge import FAIL, PASS
from validation.rollout.source import Source
from validation.rollout.truth import HuggingFace, Routers, replayed

_TOGETHER = 1 << 14
"""Tokens whose scores are held at a time: 58 layers of 256 experts take 120 KB a token."""


@dataclass(frozen=True)
class Routed:
    """What came of one layer: tokens, those whose experts differ, and of them those within rounding (near-ties)."""

    layer: int
    status: str
    tokens: int
    flips: int
    near_ties: int
    margin: float
    limit: float
    first: tuple[int, int] | None = None
    cause: str = ""

    @property
    def title(self) -> str:
        """The check's name."""
        return f"Layer {self.layer} Experts of the Engine"

    @property
    def failure(self) -> str:
        """The kind of failure."""
        return ROUTES if self.status == FAIL else ""

    @property
    def line(self) -> str:
        """`PASS: Layer 1 Experts of the Engine - 3 of 96 tokens differ, all 3 near-ties`."""
        said = f"{self.flips} of {many(self.tokens, 'token')} {'differs' if self.flips == 1 else 'differ'}"
        ties = f", {self.near_ties} of them near-ties (margin of at most {self.limit:.1e})" if self.flips else ""
        where = (
            f"; the first is position {self.first[1]} of sequence {self.first[0]}, the largest margin {self.margin:.1e}"
            if self.first
            else ""
        )
        return f"{self.status.upper()}: {self.title} - {said}{ties}{where}{f'; {self.cause}' if self.cause else ''}"


def judge(source: Source, dump: Dump, truth: HuggingFace) -> tuple[Routed, ...]:
    """A verdict for each layer of experts; none if the file does not say what was chosen.

    HuggingFace's routers go on with the engine's experts, so that every layer is asked about the same tokens. A choice that
    differs is a near-tie if rounding moves a score by as much as its margin.
    """
    routed = [(number, one) for number, one in enumerate(dump.sequences) if one.routed is not None]
    if not routed:
        return ()
    low = None if dump.precision == "fp64" else source.open(dump.precision, dump.precision)
    layers = {layer: _Layer(layer, at, truth) for at, layer in enumerate(truth.model.moe_layers)}
    for some in _batches(routed):
        sequences = [one for _, one in some]
        exact = _seen(truth, sequences)
        for (number, one), seen in zip(some, exact, strict=True):
            for layer, found in layers.items():
                found.take(number, one, seen.scores[layer])
        for variant in VARIANTS if low else ():
            for seen, true in zip(_seen(low, sequences, variant), exact, strict=True):  # type: ignore[arg-type]
                for layer, found in layers.items():
                    found.take_rounding(seen.scores[layer], true.scores[layer])
    return tuple(one.told(low is None) for one in layers.values())


def _batches(routed: Sequence[tuple[int, Said]]) -> Iterator[list[tuple[int, Said]]]:
    """So many sequences at a time that the scores of their tokens, in every layer, take little room."""
    some, tokens = list[tuple[int, Said]](), 0
    for number, one in routed:
        if some and tokens + len(one.tokens) > _TOGETHER:
            yield some
            some, tokens = [], 0
        some.append((number, one))
        tokens += len(one.tokens)
    yield some


def _seen(model: HuggingFace, sequences: Sequence[Said], variant: Variant | None = None) -> list[Routers]:
    """What the routers of each sequence do that go on with the engine's experts."""
    found = [Routers() for _ in sequences]
    for _ in model.hidden(sequences, variant, [replayed(one, model.model) for one in sequences], found):
        pass
    return found


@dataclass
class _Layer:
    """What is known of the choices of one layer so far: of those that differ sequence, position, margin and cause."""

    layer: int
    at: int
    truth: HuggingFace
    tokens: int = 0
    rounding: float = 0.0
    differing: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def take(self, number: int, one: Said, scores: torch.Tensor) -> None:
        """Compare the experts of a sequence with what HuggingFace's `scores`, [sequence, experts], choose."""
        rows = torch.tensor([row[self.at] for row in one.routed or ()])
        scores = scores[: len(rows)]
        own = torch.zeros_like(scores, dtype=torch.bool).scatter(1, rows, True)
        choice = scores + self.truth.biases[self.layer].to(scores)
        differs = (own != chosen(choice, self.truth.model)).any(-1)
        without_bias = (own == chosen(scores, self.truth.model)).all(-1)
        self.tokens += len(rows)
        if differs.any():
            margin = margins(choice, self.truth.model)
            self.differing.append((number, differs.nonzero()[:, 0], margin[differs], without_bias[differs]))

    def take_rounding(self, scores: torch.Tensor, true: torch.Tensor) -> None:
        """Take in what rounding does to the scores of a sequence."""
        self.rounding = max(self.rounding, float((scores.double() - true).abs().max()))

    def told(self, exact: bool) -> Routed:
        """The verdict on the layer; `exact` says that the engine computes in fp64."""
        limit = IN_FP64.relative_error if exact else FLOORS * self.rounding
        flips = sum(len(positions) for _, positions, _, _ in self.differing)
        beyond = [
            (number, positions, margin, biased, ~(margin <= limit)) for number, positions, margin, biased in self.differing
        ]
        wrong = [(number, at[off], margin[off], biased[off]) for number, at, margin, biased, off in beyond if off.any()]
        if not wrong:
            return Routed(self.layer, PASS, self.tokens, flips, flips, 0.0, limit)
        near = flips - sum(len(positions) for _, positions, _, _ in wrong)
        largest = max(float(margin.max()) for _, _, margin, _ in wrong)
        cause = _WITHOUT_BIAS if all(bool(biased.all()) for *_, biased in wrong) else ""
        first = wrong[0][0], int(wrong[0][1][0])
        return Routed(self.layer, FAIL, self.tokens, flips, near, largest, limit, first, cause)


_WITHOUT_BIAS = "they are the experts that the scores choose without the expert bias"
