"""What would explain a side that is wrong: each usual mistake is made on the true numbers, and compared with the side's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from validation.rollout import figures
from validation.rollout.dump import KINDS, PROCESSED, RAW, Dump, Said
from validation.rollout.figures import Values
from validation.rollout.floors import Floor
from validation.rollout.truth import HuggingFace, every, replayed

_SAMPLE = 128
"""Tokens for which the whole vocabulary is looked at."""
_IN_FP64 = 1e-6
"""What an explanation in fp64 may be off: a temperature that is searched for is known to half of the digits."""
_TEMPERATURES = [math.exp(step / 10) for step in range(-30, 31)]
_TOP_P = [*(step / 100 for step in range(50, 100)), 0.995, 0.999]
_TOP_K = [1, 2, 4, 5, 8, 10, 16, 20, 30, 32, 40, 50, 64, 100, 128, 200, 256, 500, 512, 1000]
_FEWEST = 3
"""Tokens of which a temperature, or a part of the vocabulary, may be told: some temperature fits one token by chance."""
_SAME = 1e-3
"""Temperatures that differ by less are one."""
_SEQUENCES = 8
"""Sequences of which it is asked whose numbers they have."""
_ENOUGH = 2 / 3
"""The share of the tokens that an explanation must speak of: at the ends of sequences a shift says nothing."""


@dataclass(frozen=True)
class Wrong:
    """A side that is wrong: its numbers, the truth's, the tokens in question (those of the kinds that fail), the floor."""

    side: Values
    truth: Values
    chosen: Sequence[torch.Tensor]
    floor: Floor

    def explained(self, predicted: Values) -> bool:
        """Whether these numbers are the side's, as far as rounding allows."""
        d = figures.differences(self.side, predicted, self.chosen)
        known = d[~d.isnan()]
        if known.numel() < max(1, _ENOUGH * d.numel()):
            return False
        found, limit = figures.of(known), self.limit(known.numel())
        return found.rms <= limit and found.largest <= max(limit, self.floor.of_token)

    @property
    def alone(self) -> Wrong | None:
        """The same with those tokens alone that are off; None if these are all, or too few to tell something of."""
        limit = max(self.floor.of_token, _IN_FP64)
        off = [mask & ~((a - b).abs() <= limit) for a, b, mask in zip(self.side, self.truth, self.chosen, strict=True)]
        count = sum(int(mask.sum()) for mask in off)
        return replace(self, chosen=off) if _FEWEST <= count < sum(int(mask.sum()) for mask in self.chosen) else None

    def limit(self, count: int) -> float:
        """The limit of the root mean square of so many tokens, of the kind that rounding moves most."""
        if self.floor.exact:
            return max(_IN_FP64, self.floor.largest)
        return max(self.floor.of_kind(kind, count) for kind in KINDS)


def explain(wrong: Wrong, hf: HuggingFace, dump: Dump, applied: float, earlier: Values | None, routed: bool = True) -> str:
    """The first mistake that explains the numbers, as the end of a sentence; empty if none does.

    It may be one of all tokens in question, or of those alone that are off: half of a sequence, or some sequences.
    """
    found = (_explain(part, hf, dump, applied, earlier, routed) for part in (wrong, wrong.alone) if part is not None)
    return next(filter(None, found), "")


def _explain(wrong: Wrong, hf: HuggingFace, dump: Dump, applied: float, earlier: Values | None, routed: bool) -> str:
    if wrong.explained(wrong.truth):
        return ""  # every small mistake would explain as much
    simple: Iterator[tuple[str, Values]] = _simple(wrong, dump, earlier)
    for words, predicted in simple:
        if wrong.explained(predicted):
            return words
    if words := _filler(wrong) or _of_others(wrong) or _divided(wrong, hf, dump, applied):
        return words
    if routed and any(one.routed for one in dump.sequences):
        own = every(hf, dump.sequences, applied, routings=[replayed(one, hf.model) for one in dump.sequences])
        if wrong.explained(own):
            return "with the experts in the file HuggingFace gives the same numbers: only the routing differs"
    return _of_sampling(wrong, hf, dump, applied)


def _simple(wrong: Wrong, dump: Dump, earlier: Values | None) -> Iterator[tuple[str, Values]]:
    if earlier is not None:
        yield "they are those of the earlier weights: the engine was not given the new ones", earlier
    yield "each is that of the token before it: shift them by one to the left", [_moved(one, 1) for one in wrong.truth]
    yield "each is that of the token behind it: shift them by one to the right", [_moved(one, -1) for one in wrong.truth]
    yield "they have the opposite sign: these are losses", [-one for one in wrong.truth]
    yield "they are logarithms to the base 2", [one / math.log(2) for one in wrong.truth]
    yield "they are logarithms to the base 10", [one / math.log(10) for one in wrong.truth]


def _moved(values: torch.Tensor, by: int) -> torch.Tensor:
    """Each value at the place `by` positions behind its own; NaN where there is none."""
    found = torch.full_like(values, float("nan"))
    if by > 0:
        found[by:] = values[:-by]
    else:
        found[:by] = values[-by:]
    return found


def _filler(wrong: Wrong) -> str:
    """Whether all tokens that are off have one and the same number."""
    limit = max(wrong.floor.of_token, _IN_FP64)
    off = [mask & ~((a - b).abs() <= limit) for a, b, mask in zip(wrong.side, wrong.truth, wrong.chosen, strict=True)]
    found = torch.cat([side[mask] for side, mask in zip(wrong.side, off, strict=True)])
    if found.numel() < 2 or not bool((found == found[0]).all()):
        return ""
    return f"all of them are {float(found[0]):g}: nobody computed them (padding that the mask counts, or a filler)"


def _divided(wrong: Wrong, hf: HuggingFace, dump: Dump, applied: float) -> str:
    """Whether the log-probabilities are divided by the temperature, and not the logits."""
    if applied == 1 or not wrong.explained([one / applied for one in every(hf, dump.sequences, 1.0)]):
        return ""
    return f"they are divided by the temperature {applied:g} behind the softmax: divide the logits by it"


def _of_others(wrong: Wrong) -> str:
    """Whether sequences have each other's numbers."""
    there = [number for number, mask in enumerate(wrong.chosen) if int(mask.sum()) >= _FEWEST][:_SEQUENCES]
    owners = [next((other for other in range(len(wrong.truth)) if _has(wrong, number, other)), None) for number in there]
    if not owners or None in owners:
        return ""
    return f"those of sequence {there[0]} are sequence {owners[0]}'s: the order of sequences has changed"


def _has(wrong: Wrong, number: int, other: int) -> bool:
    """Whether the tokens in question of a sequence have the true numbers of the same positions of another one."""
    mask, whose = wrong.chosen[number], wrong.truth[other]
    length = min(len(mask), len(whose))
    if other == number or bool(mask[length:].any()):
        return False
    off = (wrong.side[number][:length] - whose[:length])[mask[:length]].abs()
    return bool((off <= max(wrong.floor.of_token, _IN_FP64)).all())


@dataclass(frozen=True)
class _Token:
    """One token in question: what the side says, which token, and the logits it was drawn from and those behind it."""

    said: float
    token: int
    logits: torch.Tensor
    own: torch.Tensor


def _of_sampling(wrong: Wrong, hf: HuggingFace, dump: Dump, applied: float) -> str:
    """Mistakes that need the whole vocabulary: the temperature, the part of it that tokens are drawn from, the position."""
    tokens = list(_tokens(wrong, hf, dump.sequences))
    if len(tokens) < _FEWEST:
        return ""
    logits = torch.stack([one.logits for one in tokens]).double()
    ids = torch.tensor([one.token for one in tokens])
    said = torch.tensor([one.said for one in tokens], dtype=torch.float64)
    limit = wrong.limit(len(tokens))

    def at(temperature: float, logits: torch.Tensor = logits) -> torch.Tensor:
        return torch.log_softmax(logits / temperature, dim=-1).gather(1, ids[:, None])[:, 0]

    def off(predicted: torch.Tensor) -> float:
        return float((said - predicted).square().mean().sqrt())

    own = torch.stack([one.own for one in tokens]).double()
    if off(at(applied, own)) <= limit:
        return "they are taken from the logits behind each token instead of those before it: the logits are shifted by one"
    best = _searched(lambda temperature: off(at(temperature)))
    if abs(best / applied - 1) > _SAME and off(at(best)) <= limit * max(1.0, applied / best):
        return _of_temperature(best, dump)
    for temperature in dict.fromkeys((applied, 1.0, dump.temperature)):
        if words := _cut(logits / temperature, ids, off, limit * max(1.0, 1 / temperature)):
            return words + ("" if temperature == applied else f", at temperature {temperature:g}")
    return ""


def _tokens(wrong: Wrong, hf: HuggingFace, sequences: Sequence[Said]) -> Iterator[_Token]:
    """As many of the tokens in question as are looked at."""
    left, asked = _SAMPLE, list[tuple[Said, torch.Tensor, list[int]]]()
    for one, side, mask in zip(sequences, wrong.side, wrong.chosen, strict=True):
        positions = mask.nonzero()[:left, 0].tolist()
        left -= len(positions)
        if positions:
            asked.append((one, side, positions))
    for (one, side, positions), hidden in zip(asked, hf.hidden([one for one, _, _ in asked]), strict=True):
        logits = hf.head(hidden[[place + by for place in positions for by in (-1, 0)]]).cpu()
        for at, place in enumerate(positions):
            yield _Token(float(side[place]), one.tokens[place], logits[2 * at], logits[2 * at + 1])


def _searched(off: Callable[[float], float]) -> float:
    """The temperature that fits best: the best of a grid, refined."""
    best = min(_TEMPERATURES, key=off)
    low, high = best / 1.11, best * 1.11
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if off(a) < off(b) else (a, high)
    return (low + high) / 2


def _of_temperature(found: float, dump: Dump) -> str:
    """What a temperature that fits says of the file."""
    if dump.mode == PROCESSED and abs(found - 1) < 0.02:
        return f"the temperature {dump.temperature:g} is left out: they are of the model's own logits, mode {RAW}"
    if dump.mode == RAW:
        return f"a temperature of {found:.3g} is in them: they are not of the model's own logits, mode {PROCESSED}"
    return f"they fit a temperature of {found:.3g}, and the file says {dump.temperature:g}"


def _cut(logits: torch.Tensor, ids: torch.Tensor, off: Callable[[torch.Tensor], float], limit: float) -> str:
    """Whether they are renormalised over the likeliest tokens, by share (top_p) or by number (top_k)."""
    logs = torch.log_softmax(logits, dim=-1)
    ordered = logs.sort(dim=-1, descending=True).values.exp()
    summed, own = ordered.cumsum(-1), logs.gather(1, ids[:, None])[:, 0]
    for share in _TOP_P:
        # The likeliest tokens up to the one with which the share is reached.
        last = (summed < share).sum(-1, keepdim=True).clamp(max=logs.shape[-1] - 1)
        if off(own - summed.gather(1, last)[:, 0].log()) <= limit:
            return f"they are renormalised over the likeliest tokens that make up top_p {share:g}"
    for number in _TOP_K:
        if number < logs.shape[-1] and off(own - summed[:, number - 1].log()) <= limit:
            return f"they are renormalised over the top_k {number} likeliest tokens"
    return ""


def failing(counted: Mapping[str, Sequence[torch.Tensor]], kinds: Sequence[str]) -> list[torch.Tensor]:
    """The positions of these kinds in each sequence."""
    return [torch.stack(found).any(0) for found in zip(*(counted[kind] for kind in kinds), strict=True)]
