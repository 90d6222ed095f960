"""What a single element does to later steps: rounding moves it, and every later gradient depends on it.

AdamW's first update is g / (|g| + epsilon). Where a gradient g is about as small as epsilon or as its own error, rounding moves
the weight by up to two learning rates; it moves all others by next to nothing. One such element often makes most of what the
next gradients are off, all of them in proportion to that element's error. Then the runs of a floor are no more than five draws
of one number, and a sixth may be more than twice the largest. How large such an error is they do show, for a weight has many
in each row and column. So that element is moved on purpose, as far as this permits.

Two probes find it. The derivative of all gradients by all weights is symmetric: if weights move at random, each tensor by the
inverse of its gradient's size, then the gradient of an element moves by what that element does to all gradients, in shares of
their sizes, times a random number around 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from validation.case.case import Case
from validation.case.optimizers import FIRST, SECOND
from validation.case.parameters import Parameter
from validation.case.schedule import Schedule
from validation.case.steps import GRADIENT, STEPS, takes_gradients, trained
from validation.compare.limits import FLOORS
from validation.reference import schedule as formulas
from validation.reference.batch import Batch
from validation.reference.floor import Floor, difference_from
from validation.reference.record import Recording, Unrecorded
from validation.reference.routing import Routing
from validation.reference.steps import Steps

SIGMAS = 5.0
"""How many times its error's deviation a gradient may be off, of the tens of thousands that a model has."""
ELEMENTS, PROBES = 2, 2
"""How many elements are moved, in a run each, and how many probes look for them."""
MATTERS = 0.25
"""Elements that make less than such a share of the floors, as the probes say, are not moved: a twentieth in bf16 on tiny."""
SMALL = 1e-6
"""How far a probe moves a weight at most, as a share of its size: in fp64 that leaves ten digits of the derivative."""


@dataclass(frozen=True)
class Move:
    """One element of a parameter, by its place in the flattened tensor, and what is added to it."""

    name: str
    at: int
    by: float


class Shown:
    """What the runs of a floor show of steps: norms of gradients, and where errors of first moments are large.

    `kept` and `norms` are those of `Steps`, first the truth's.

    An element's mean square error is taken for its row's times its column's, over that of all: a weight's gradient is a product
    of two tensors. So the largest of 277180 errors of small gradients (tiny, fp32, 5 seeds) is 5.5 deviations; of a whole
    tensor's it would be 12.
    """

    def __init__(self, kept: Mapping[str, torch.Tensor], norms: Mapping[str, float]) -> None:
        self.kept, self.norms = kept, [norms]
        self._rows: dict[str, torch.Tensor] = {}
        self._columns: dict[str, torch.Tensor] = {}

    def add(self, kept: Mapping[str, torch.Tensor], norms: Mapping[str, float]) -> None:
        """Take in what a run has left."""
        self.norms.append(norms)
        for key in (key for key in kept if f"/{FIRST}/" in key):
            # A run that overflowed is no measure of rounding.
            squares = (kept[key].double() - self.kept[key]).square().nan_to_num(0.0, 0.0)
            self._rows[key] = squares.mean(-1, keepdim=True) + self._rows.get(key, 0.0)
            self._columns[key] = squares.mean(_rows(squares), keepdim=True) + self._columns.get(key, 0.0)

    def gradient(self, case: Case, step: int, name: str) -> torch.Tensor:
        """The truth's clipped gradient of a step, out of the first moments."""
        first = self.kept[f"{step}/{FIRST}/{name}"]
        before = self.kept[f"{step - 1}/{FIRST}/{name}"] if step > 1 else torch.zeros_like(first)
        return taken(case, before, first)

    def deviation(self, key: str) -> torch.Tensor:
        """The root mean square error over the runs of each element of a first moment, in its shape."""
        rows, columns = self._rows[key], self._columns[key]
        every = rows.mean(_rows(rows), keepdim=True)
        squares = rows * columns / every.where(every != 0, 1.0) / (len(self.norms) - 1)
        return squares.sqrt().expand_as(self.kept[key])


def taken(case: Case, before: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The clipped gradient of a step, float64, out of the first moments before it and behind it."""
    beta = case.training.adam.beta1
    return (first.double() - beta * before.double()) / (1 - beta)


def _rows(tensor: torch.Tensor) -> int:
    """The dimension that counts rows; the only one where there is one, so that all elements count as alike."""
    return -min(2, tensor.dim())


def raise_later(
    floor: Floor,
    steps: Steps,
    shown: Shown,
    later: Sequence[Batch],
    chosen: Sequence[Routing],
    record: Callable[[Batch, Recording], Recording],
) -> None:
    """Raise the floors behind step 1 so far that limits allow what a single element does to them.

    `steps` are of the truth's model, in fp64, with any weights; they are left with others. `later` are the batches behind the
    first, `chosen` the truth's choices for them.
    """

    def run(step: int) -> None:
        batch = later[step - 2]
        with steps.loads.counting(batch):
            record(batch, Unrecorded(chosen[step - 2]))

    every = range(2, len(later) + 2)
    found = [_most_effective(steps, shown, step - 1, functools.partial(run, step)) for step in every]
    shares = [pairs[0][0] / FLOORS / _of_all(floor, steps.case, step) for step, pairs in zip(every, found, strict=True)]
    if max(shares) < MATTERS:
        return
    for moves in zip(*([move for _, move in pairs] for pairs in found), strict=True):
        steps.go_back(shown.kept, 1)
        steps.keep = _Allowance(floor, shown, steps.case)
        for step, move in zip(every, moves, strict=True):
            steps.move(move.name, move.at, move.by)
            run(step)
            steps.take(step)


class _Allowance:
    """Raises the floors of what the steps of a run leave so far that limits allow these values; one for each run."""

    def __init__(self, floor: Floor, shown: Shown, case: Case) -> None:
        self._floor, self._shown, self._case = floor, shown, case
        self._firsts: dict[str, torch.Tensor] = {}

    def __call__(self, key: str, value: torch.Tensor) -> None:
        """Take in one of them, in the order of the steps."""
        kept = self._shown.kept
        value = value.to(kept[key].device)
        self._raise(key, value, kept[key])
        step, kind, name = (*key.split("/", 2), "", "")[:3]
        if kind == FIRST and takes_gradients(self._case, int(step)):
            before = self._firsts.get(name, kept[f"{int(step) - 1}/{FIRST}/{name}"])
            truth = self._shown.gradient(self._case, int(step), name)
            self._raise(f"{step}/{GRADIENT}/{name}", taken(self._case, before, value), truth)
            self._firsts[name] = value.clone()

    def _raise(self, key: str, value: torch.Tensor, truth: torch.Tensor) -> None:
        self._floor.raise_to(STEPS + key, difference_from(truth, value).relative_error / FLOORS)


def _of_all(floor: Floor, case: Case, step: int) -> float:
    """The floors of what a step makes of its gradients first, as one error of all of them."""
    kind = GRADIENT if takes_gradients(case, step) else FIRST
    return math.hypot(*(floor.error(f"{STEPS}{step}/{kind}/{parameter.name}") for parameter in trained(case)))


def _most_effective(steps: Steps, shown: Shown, step: int, run: Callable[[], None]) -> list[tuple[float, Move]]:
    """The elements that change the gradients behind `step` most if rounding moves them, and how much in shares of all of these.

    `run` makes these gradients.
    """
    effects, found = _effects(steps, shown, step, run), list[tuple[float, Move]]()
    for parameter in trained(steps.case):
        if parameter.name in effects:
            moves = turned(steps.case, parameter, step, shown).flatten()
            sizes = moves.abs() * effects[parameter.name].to(moves.device).flatten()
            largest = sizes.topk(min(ELEMENTS, sizes.numel()))
            pairs = zip(largest.values.tolist(), largest.indices.tolist(), strict=True)
            found += [(size, Move(parameter.name, at, float(moves[at]))) for size, at in pairs]
    return sorted(found, key=lambda one: -one[0])[:ELEMENTS]


@torch.no_grad()
def _effects(steps: Steps, shown: Shown, step: int, run: Callable[[], None]) -> dict[str, torch.Tensor]:
    """How much all gradients change, in shares of their sizes, as an element of a parameter does: by name, in its shape."""

    def gradients() -> dict[str, torch.Tensor]:
        with torch.enable_grad():
            run()
        return steps.gradients()

    steps.set_values(shown.kept, step)
    still, values = gradients(), steps.values()
    device = next(iter(values.values())).device
    sizes = {name: float(gradient.norm()) for name, gradient in still.items()}
    roots = {name: float(values[name].square().mean().sqrt()) for name, size in sizes.items() if size}
    unit = SMALL * min((root * sizes[name] for name, root in roots.items() if root), default=1.0)
    squares = dict[str, torch.Tensor]()
    for seed in range(PROBES):
        generator = torch.Generator(device).manual_seed(seed)
        steps.set_values(shown.kept, step)
        for name in roots:
            noise = torch.randn(values[name].shape, generator=generator, dtype=torch.float64, device=generator.device)
            values[name] += noise.to(values[name]) * (unit / sizes[name])
        for name, gradient in gradients().items():
            squares[name] = ((gradient - still[name]) / unit).square() + squares.get(name, 0.0)
    return {name: (total / PROBES).sqrt() for name, total in squares.items()}


def turned(case: Case, parameter: Parameter, step: int, shown: Shown) -> torch.Tensor:
    """What is added to each element of a parameter if its gradient of a step is SIGMAS deviations off, to the worse side.

    A gradient of nothing, as that of a token that is not there, is nothing in every precision.
    """
    adam, kept = case.training.adam, shown.kept
    first, second = (kept[f"{step}/{kind}/{parameter.name}"] for kind in (FIRST, SECOND))
    before = [kept[f"{step - 1}/{kind}/{parameter.name}"] if step > 1 else torch.zeros_like(first) for kind in (FIRST, SECOND)]
    gradient = shown.gradient(case, step, parameter.name)
    off = SIGMAS * shown.deviation(f"{step}/{FIRST}/{parameter.name}") / (1 - adam.beta1)

    def update(gradient: torch.Tensor) -> torch.Tensor:
        mean, square = (
            (beta * was + (1 - beta) * now) / (1 - beta**step)
            for beta, was, now in zip((adam.beta1, adam.beta2), before, (gradient, gradient**2), strict=True)
        )
        return mean / (square.sqrt() + adam.epsilon)

    up, down = (update(gradient + sign * off) - update(gradient) for sign in (1, -1))
    rate, _ = formulas.rates(Schedule.of(case.training), parameter, step - 1)
    return -rate * torch.where(up.abs() > down.abs(), up, down).where(second != 0, 0.0)
