"""The experts that an engine says its tokens went to, against HuggingFace's scores and their margins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from validation.case.failures import ROUTES
from validation.compare.limits import FLOORS, IN_FP64
from validation.reference.floor import VARIANTS
from validation.reference.routing import chosen, margins
from validation.rollout.dump import Dump, Said
from validation.rollout.judge import FAIL, PASS
from validation.rollout.truth import HuggingFace, Routers, replayed


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
        said = f"{self.flips} of {self.tokens} tokens differ"
        ties = f", {self.near_ties} of them near-ties (margin of at most {self.limit:.1e})" if self.flips else ""
        where = (
            f"; the first is position {self.first[1]} of sequence {self.first[0]}, the largest margin {self.margin:.1e}"
            if self.first
            else ""
        )
        return f"{self.status.upper()}: {self.title} - {said}{ties}{where}{f'; {self.cause}' if self.cause else ''}"


def judge(folder: Path, dump: Dump, truth: HuggingFace) -> tuple[Routed, ...]:
    """A verdict for each layer of experts; none if the file does not say what was chosen.

    HuggingFace's routers go on with the engine's experts, so that every layer is asked about the same tokens. A choice that
    differs is a near-tie if rounding moves a score by as much as its margin.
    """
    routed = [(number, one) for number, one in enumerate(dump.sequences) if one.routed is not None]
    if not routed:
        return ()
    seen = {number: _seen(truth, one) for number, one in routed}
    floor = _score_floor(folder, dump, [one for _, one in routed], seen, truth)
    return tuple(_layer(layer, at, routed, seen, truth, floor[layer]) for at, layer in enumerate(truth.model.moe_layers))


def _seen(model: HuggingFace, one: Said, **how: object) -> Routers:
    found = Routers()
    model.logits(one, routing=replayed(one, model.model), seen=found, **how)  # type: ignore[arg-type]
    return found


def _score_floor(
    folder: Path, dump: Dump, sequences: Sequence[Said], seen: dict[int, Routers], truth: HuggingFace
) -> dict[int, float]:
    """What rounding does to a score, by layer, times the project's factor; in fp64 what counts as equal there."""
    if dump.precision == "fp64":
        return defaultdict(lambda: IN_FP64.relative_error)
    model, found = HuggingFace.open(folder, dump.precision, dump.precision), defaultdict[int, float](float)
    for variant in VARIANTS:
        for one, true in zip(sequences, seen.values(), strict=True):
            for layer, scores in _seen(model, one, variant=variant).scores.items():
                found[layer] = max(found[layer], float((scores.double() - true.scores[layer]).abs().max()))
    return {layer: FLOORS * largest for layer, largest in found.items()}


def _layer(
    layer: int, at: int, routed: Sequence[tuple[int, Said]], seen: dict[int, Routers], truth: HuggingFace, limit: float
) -> Routed:
    tokens = flips = near = 0
    largest, first, biased = 0.0, None, True
    for number, one in routed:
        scores = seen[number].scores[layer]
        own = torch.zeros_like(scores, dtype=torch.bool)
        rows = torch.tensor([row[at] for row in one.routed or ()])
        own = own[: len(rows)].scatter(1, rows, True)
        choice = (scores + truth.biases[layer].to(scores))[: len(rows)]
        differs = (own != chosen(choice, truth.model)).any(-1)
        margin = margins(choice, truth.model)
        beyond = differs & ~(margin <= limit)
        tokens, flips, near = tokens + len(rows), flips + int(differs.sum()), near + int((differs & ~beyond).sum())
        biased &= bool((own == chosen(scores[: len(rows)], truth.model)).all(-1)[beyond].all())
        if beyond.any():
            largest = max(largest, float(margin[beyond].max()))
            first = first or (number, int(beyond.nonzero()[0, 0]))
    wrong = flips > near
    cause = "they are the experts that the scores choose without the expert bias" if wrong and biased else ""
    return Routed(layer, FAIL if wrong else PASS, tokens, flips, near, largest, limit, first, cause)
