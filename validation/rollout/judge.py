"""The verdicts: each side against the truth, and the sides against each other, by kind of token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from validation.case.failures import LIMIT, NOT_FINITE, UNDECIDED
from validation.rollout import figures, floors
from validation.rollout.dump import KINDS, Said
from validation.rollout.figures import Figures, Values
from validation.rollout.floors import Floor

PASS, FAIL, ERROR = "pass", "fail", "error"
ENGINE, TRAINER, MEGATRON, TRUTH = "engine", "trainer", "Megatron", "HuggingFace"


@dataclass(frozen=True)
class Place:
    """Where a side is wrong in one sequence: the first position, how many tokens, and of how many that count from there on."""

    sequence: int
    first: int
    wrong: int
    behind: int

    @property
    def throughout(self) -> bool:
        """Whether most tokens from the first wrong one on are wrong."""
        return 2 * self.wrong > self.behind


@dataclass(frozen=True)
class Verdict:
    """What came of the tokens of one kind."""

    side: str
    other: str
    kind: str
    status: str
    figures: Figures
    limit: float
    token_limit: float
    places: tuple[Place, ...] = ()
    failure: str = ""
    reason: str = ""

    @property
    def title(self) -> str:
        """The check's name."""
        return f"{_capital(self.side)} Against {_capital(self.other)}, {self.kind.title()}"


@dataclass(frozen=True)
class Pair:
    """Two sides compared: a verdict for each kind of which there are tokens."""

    side: str
    other: str
    verdicts: tuple[Verdict, ...] = field(default=())

    @property
    def failing(self) -> tuple[Verdict, ...]:
        """Those that fail."""
        return tuple(one for one in self.verdicts if one.status == FAIL)

    @property
    def agrees(self) -> bool:
        """Whether some kinds pass, and none fails."""
        return not self.failing and any(one.status == PASS for one in self.verdicts)

    @property
    def undecided(self) -> bool:
        """Whether some cannot be decided."""
        return any(one.status == ERROR for one in self.verdicts)


def judge(
    side: str,
    other: str,
    pair: tuple[Values, Values],
    sequences: Sequence[Said],
    floor: Floor,
    spread: float,
    apart: Mapping[str, float] | None = None,
) -> Pair:
    """Compare two sides. `apart` is what their truths differ by in each kind, if each has one of its own."""
    counted = figures.masks(sequences)
    found = []
    for kind in KINDS:
        said = figures.of(figures.differences(*pair, counted[kind]))
        if not said.count:
            continue
        more = (apart or {}).get(kind, 0.0)
        limit, token = floor.of_kind(kind, said.count) + more if not floor.undecided else 0.0, floor.of_token + more
        status, failure, reason = _status(said, limit, token, floor, spread)
        places = tuple(_places(*pair, counted[kind], token)) if status == FAIL else ()
        found.append(Verdict(side, other, kind, status, said, limit, token, places, failure, reason))
    return Pair(side, other, tuple(found))


def _status(said: Figures, limit: float, token: float, floor: Floor, spread: float) -> tuple[str, str, str]:
    """Status, kind of failure, and why."""
    if said.rms != said.rms:
        return FAIL, NOT_FINITE, "a log-probability is not finite"
    if floor.undecided:
        return ERROR, UNDECIDED, floor.undecided
    if not said.rms <= limit:
        return FAIL, LIMIT, f"the root mean square of {said.rms:.3g} is above the limit of {limit:.3g}"
    if not said.largest <= token:
        return FAIL, LIMIT, f"the largest of {said.largest:.3g} is above the limit of {token:.3g} for one token"
    if not floor.exact and limit >= floors.UNDECIDED * spread:
        wide = f"rounding alone allows {limit:.2g}, and the true log-probabilities differ by {spread:.2g} from each other"
        return ERROR, UNDECIDED, f"cannot be decided with so few tokens in this precision: {wide}; give more sequences"
    return PASS, "", ""


def _places(side: Values, other: Values, chosen: Sequence[torch.Tensor], limit: float) -> list[Place]:
    """The sequences in which single tokens are beyond their limit."""
    found = []
    for number, (a, b, mask) in enumerate(zip(side, other, chosen, strict=True)):
        wrong = mask & ~((a - b).abs() <= limit)
        if wrong.any():
            first = int(wrong.nonzero()[0, 0])
            found.append(Place(number, first, int(wrong.sum()), int(mask[first:].sum())))
    return found


def together(one: Floor, other: Floor) -> Floor:
    """What two sides may differ by from each other: what both may from the truth."""
    kinds = {kind: one.by_kind.get(kind, one.largest) + other.by_kind.get(kind, other.largest) for kind in KINDS}
    undecided = one.undecided or other.undecided
    if one.exact and other.exact:
        return Floor({}, one.largest + other.largest, exact=True, undecided=undecided)
    return Floor(kinds, one.largest + other.largest, undecided=undecided)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
