"""Whether a step is what the optimizer's formula makes of its own numbers, element by element.

Below fp64 a comparison with another model's step has a floor, under which a weight decay or a step count can hide. An
optimizer has float32 before it and behind it, whatever the model is in: its own arithmetic has the roundings of float32 alone.
AdamW: https://arxiv.org/abs/1711.05101, algorithm 2; the others as PyTorch's documentation of torch.optim has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from validation.case.optimizers import ADAM, BUFFER, FIRST, SECOND, Rule
from validation.case.plural import many
from validation.case.steps import MASTER
from validation.case.training import Adam

_CLASSES = ("Adam", "AdamW", "FusedAdam", "SGD", "FusedSGD")
"""Classes, of torch, apex and Transformer Engine, that compute what the formulas here say."""
_HALF_ULP = 2.0**-24
"""The relative error of one rounding to float32."""
_LEAST = 2.0**-125
"""Below about this a float32 has fewer bits, or a kernel takes it for 0."""
_FEW, _MORE = 4, 16
"""Roundings that a sum of products and a quotient may have: what torch's and the fused kernels do is a few less."""


@dataclass(frozen=True)
class Before:
    """What an optimizer has of a share before a step: the weights that it steps, and its moments. All flat, float32."""

    weights: torch.Tensor
    moments: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Rates:
    """Of one step, counted from 1, for one parameter."""

    step: int
    learning: float
    decay: float


def known(optimizer: Any, own: torch.Tensor) -> bool:
    """Whether an optimizer's step of `own` can be judged: one that computes otherwise, or keeps less than float32, cannot."""
    return type(optimizer).__name__ in _CLASSES and own.dtype == torch.float32 and own.numel() > 0


def before(own: torch.Tensor, state: Mapping[str, Any], rule: Rule) -> Before:
    """Copies; a moment that is not there yet is zeros."""

    def copied(kind: str) -> torch.Tensor:
        there = state.get(kind)
        return torch.zeros_like(own).view(-1) if there is None else there.detach().clone().view(-1)

    return Before(own.detach().clone().view(-1), {kind: copied(kind) for kind in rule.moments})


def changed(had: Before, has: Before) -> Iterator[tuple[str, torch.Tensor]]:
    """What differs in one bit, by its kind, with a bool for each element: nothing changes it between two steps."""
    for kind, old, new in ((MASTER, had.weights, has.weights), *((k, v, has.moments[k]) for k, v in had.moments.items())):
        off = (old != new) & ~(old.isnan() & new.isnan())
        if off.any():
            yield kind, off


def touched(had: Before, own: torch.Tensor, state: Mapping[str, Any]) -> torch.Tensor:
    """Whether something differs, a bool on their device that nobody has waited for. No number differs from itself, too."""
    there = [
        (had.weights, own),
        *((moment, state[kind]) for kind, moment in had.moments.items() if state.get(kind) is not None),
    ]
    return torch.stack([(old != new.detach().view(-1)).any() for old, new in there]).any()


def judged(own: torch.Tensor, state: Mapping[str, Any], rule: Rule) -> bool:
    """Whether the formula says something of a step: not without a gradient, nor if a moment is no float32."""
    kept = [state.get(kind) for kind in rule.moments]
    return own.grad is not None and all(one is not None and one.dtype == torch.float32 for one in kept)


def wrong(
    was: Before, own: torch.Tensor, state: Mapping[str, Any], rule: Rule, adam: Adam, rates: Rates
) -> Iterator[tuple[str, torch.Tensor, str]]:
    """Each kind whose elements the formula does not make, a bool for each element, and what is said of them.

    `own` is what the optimizer has stepped, float32, with the gradient of the step behind the clipping, and `state` what it
    keeps. A share that is not `judged` has nothing wrong.
    """
    if own.grad is None or not judged(own, state, rule):
        return
    now = {kind: state[kind].detach().view(-1).double() for kind in rule.moments}
    had = {kind: one.double() for kind, one in was.moments.items()}
    start, end, gradient = was.weights.double(), own.detach().view(-1).double(), own.grad.detach().view(-1).double()
    formula = _OfAdam(rule, adam, rates) if rule.kind == ADAM else _OfSgd(rule, rates)
    gradient, doubt = formula.decayed(start, gradient)
    for kind, (expected, slack) in formula.moments(had, gradient, doubt).items():
        if (off := _beyond(now[kind] - expected, slack)).any():
            yield kind, off, f"not what {formula.name} makes of the gradient and of what was there before the step"
    moved_by = now or {BUFFER: gradient}
    expected, slack = formula.weights(start, moved_by)
    if (off := _beyond(end - expected, slack)).any():
        said = f"not what {formula.name} makes of the moments and of what was there before the step"
        yield MASTER, off, said + formula.explained(start, end, moved_by)


def _beyond(error: torch.Tensor, slack: torch.Tensor) -> torch.Tensor:
    """Which errors are more than rounding may make of them, or no numbers; none where rounding may make anything."""
    return ~(error.abs() <= slack) & (slack < torch.inf)


def sentence(count: int, said: str) -> str:
    """Of that many elements."""
    return f"{many(count, 'element is', 'elements are')} {said}"


@dataclass(frozen=True)
class _OfAdam:
    rule: Rule
    adam: Adam
    rates: Rates

    @property
    def name(self) -> str:
        return "AdamW" if self.rule.decoupled else "Adam"

    def decayed(self, start: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient that the moments are made of, and how far rounding may have it."""
        decay = 0.0 if self.rule.decoupled else self.rates.decay
        return _decayed(start, gradient, decay)

    def moments(
        self, had: Mapping[str, torch.Tensor], gradient: torch.Tensor, doubt: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Each moment and how far rounding may have it. A share such as 1 - 0.999 has lost bits in float32 itself."""
        adam, found = self.adam, {}
        for kind, keeps, new, unsure in (
            (FIRST, adam.beta1, gradient, doubt),
            (SECOND, adam.beta2, gradient.square(), 2 * gradient.abs() * doubt),
        ):
            gains = 1 - keeps
            roundings = _FEW * had[kind].abs() + (2 * _FEW + 2 / gains) * gains * new.abs()
            found[kind] = keeps * had[kind] + gains * new, _HALF_ULP * roundings + gains * unsure + _LEAST
        return found

    def weights(self, start: torch.Tensor, moments: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._weights(start, moments, self.rates.step, self.rates.decay)

    def _weights(
        self, start: torch.Tensor, moments: Mapping[str, torch.Tensor], step: int, decay: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        adam, rate = self.adam, self.rates.learning
        shrinks = rate * decay if self.rule.decoupled else 0.0
        root = (moments[SECOND] / (1 - adam.beta2**step)).sqrt()
        moved = rate * moments[FIRST] / (1 - adam.beta1**step) / (root + adam.epsilon)
        expected = start * (1 - shrinks) - moved
        most = torch.maximum(start.abs(), expected.abs())
        roundings = _FEW * most + (_MORE + _FEW / (1 - adam.beta1) + _FEW / (1 - adam.beta2)) * moved.abs()
        slack = _HALF_ULP * roundings + _LEAST
        # What is divided by nearly nothing says nothing.
        return expected, torch.where(root + adam.epsilon < math.sqrt(_LEAST), torch.inf, slack)

    def explained(self, start: torch.Tensor, end: torch.Tensor, moments: Mapping[str, torch.Tensor]) -> str:
        """`; it is so with a weight decay of 0`, if another number makes every element right; else nothing."""

        def fits(step: int, decay: float) -> bool:
            expected, slack = self._weights(start, moments, step, decay)
            return not _beyond(end - expected, slack).any()

        step, decay = self.rates.step, self.rates.decay
        for other in range(1, step + 3):
            if other != step and fits(other, decay):
                return f"; it is so with the bias correction of step {other}"
        if self.rule.decoupled and decay and fits(step, 0.0):
            return "; it is so without weight decay"
        usual = self.adam.weight_decay
        if self.rule.decoupled and not decay and usual and fits(step, usual):
            return f"; it is so with a weight decay of {usual:g}"
        return _larger(*(one - start for one in (end, self.weights(start, moments)[0])))


@dataclass(frozen=True)
class _OfSgd:
    rule: Rule
    rates: Rates
    name: str = "SGD"

    def decayed(self, start: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _decayed(start, gradient, self.rates.decay)

    def moments(
        self, had: Mapping[str, torch.Tensor], gradient: torch.Tensor, doubt: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """What is added up; the first gradient is taken whole, and so is one on top of zeros."""
        if BUFFER not in had:
            return {}
        kept = self.rule.momentum * had[BUFFER]
        roundings = _FEW * (kept.abs() + gradient.abs())
        return {BUFFER: (kept + gradient, _HALF_ULP * roundings + doubt + _LEAST)}

    def weights(self, start: torch.Tensor, moments: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        moved = self.rates.learning * moments[BUFFER]
        most = torch.maximum(start.abs(), (start - moved).abs())
        return start - moved, _HALF_ULP * (_FEW * most + _MORE * moved.abs()) + _LEAST

    def explained(self, start: torch.Tensor, end: torch.Tensor, moments: Mapping[str, torch.Tensor]) -> str:
        return _larger(end - start, self.weights(start, moments)[0] - start)


def _decayed(start: torch.Tensor, gradient: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    added = decay * start
    doubt = _FEW * _HALF_ULP * (gradient.abs() + added.abs()) if decay else torch.zeros_like(gradient)
    return gradient + added, doubt


_SHARP = 0.999
"""Cosine from which on two updates are one, but for their size."""
_ALIKE = 0.01
"""By how much two sizes may differ that a reader takes for one."""


def _larger(moved: torch.Tensor, expected: torch.Tensor) -> str:
    """`; it moves them 1.1 times as far`, where the update has the right direction; else nothing."""
    size, right = float(torch.linalg.vector_norm(moved)), float(torch.linalg.vector_norm(expected))
    if not size or not right or float(moved @ expected) / size / right < _SHARP or abs(size / right - 1) < _ALIKE:
        return ""
    return f"; it moves them {size / right:.3g} times as far"
