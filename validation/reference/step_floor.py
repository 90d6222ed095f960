"""Optimizer steps below fp64: the truth, the same steps in the precision, and what rounding may do to them.

AdamW divides a gradient by its own size: what is left of a small one is its sign, and rounding turns that over. The runs of a
floor show how many elements turn in a large tensor. In a small one none may turn in five runs and two in the sixth. SGD divides
by nothing, and no element turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from validation.case.case import Case
from validation.case.optimizers import ADAM, FIRST, SECOND, Rule
from validation.case.schedule import Schedule
from validation.case.steps import GRADIENT, MASTER, NORM, STEPS, VALUE, ZEROS, takes_gradients, trained
from validation.compare.limits import FLOORS
from validation.reference import schedule as formulas
from validation.reference.batch import Batch
from validation.reference.floor import Floor, difference_from, magnitude
from validation.reference.record import Recording, Unrecorded
from validation.reference.routing import Routing
from validation.reference.steps import Steps
from validation.reference.turning import Shown, taken

Record = Callable[[Batch, Recording], Recording]

TURNED = 2
"""Elements of a tensor whose update may turn over beside those that turn in a run of the floor."""
SIGMAS = 4.0
"""How many times the gradient's error an element may be off."""
CHANCE = 12.5
"""How improbable an error must be that a second moment's limit does not allow: minus the logarithm of its probability."""
SQUARED = 1.25
"""The second moment's floor is at least so many times the first's."""
ROUNDINGS, UNIT = 3, torch.finfo(torch.float32).eps / 2
"""Of the norm: that of each tensor, its square in the sum of all, and the root; each rounds to float32."""
MOST = 2.0
"""How much two updates differ at most, in learning rates: AdamW's is between -1 and 1, but for what later steps add."""


def true_steps(
    steps: Steps, later: Sequence[Batch], record: Record, routing: Callable[[Recording], Routing], in_place: bool = False
) -> list[Routing]:
    """Take all steps of the truth, the first with the gradients that are there; returns what routers choose in the others.

    With `in_place` that lies where it was computed.
    """
    steps.take(1)
    found = []
    for step, batch in enumerate(later, start=2):
        with steps.loads.counting(batch):
            found.append(routing(record(batch, Recording(in_place=in_place))))
        steps.take(step)
    return found


def rounded_steps(steps: Steps, later: Sequence[Batch], chosen: Sequence[Routing], record: Record, scale: float) -> None:
    """The same in the precision, with the truth's choices; `record` makes gradients that are `scale` times too large."""
    steps.take(1, scale)
    for step, (batch, choice) in enumerate(zip(later, chosen, strict=True), start=2):
        with steps.loads.counting(batch):
            record(batch, Unrecorded(choice))
        steps.take(step, scale)


def add_gradients(floor: Floor, case: Case, shown: Shown, kept: Mapping[str, torch.Tensor]) -> None:
    """Take in the gradients that a run's steps behind the first have taken; `kept` is what they have left."""
    for step in range(2, case.training.steps + 1):
        for parameter in trained(case) if takes_gradients(case, step) else ():
            name = parameter.name
            truth = shown.gradient(case, step, name)
            found = taken(case, kept[f"{step - 1}/{FIRST}/{name}"], kept[f"{step}/{FIRST}/{name}"])
            difference = difference_from(truth, found.to(truth.device))
            floor.add_difference(f"{STEPS}{step}/{GRADIENT}/{name}", torch.float32, difference, magnitude(truth))


def widen(floor: Floor, case: Case, shown: Shown) -> None:
    """Raise the floors of what steps leave to what rounding may do beside what these runs have shown."""
    kept = shown.kept
    if Rule.of(case.training).kind == ADAM:
        _widen_turning(floor, case, shown)
    for step in range(1, case.training.steps + 1):
        floor.raise_to(f"{STEPS}{step}/{NORM}", _of_norm(f"{step}/", *shown.norms) + ROUNDINGS * UNIT)
        if f"{step}/{ZEROS}" in kept:
            _widen_zeros(floor, kept, f"{step}/{ZEROS}")


def _of_norm(before: str, truth: Mapping[str, float], *runs: Mapping[str, float]) -> float:
    """The relative error of a step's norm if in every parameter the run that is off most were off to the same side.

    In the norm of all, errors of the parameters cancel out as chance has it, and in a few runs that may be nearly all of them.
    To the first order |norm - n| / n is at most the sum of n_i |norm_i - n_i| / n^2.
    """
    sizes = {key: size for key, size in truth.items() if key.startswith(before)}
    squares = sum(size**2 for size in sizes.values())
    off = sum(size * max((abs(run[key] - size) for run in runs), default=0.0) for key, size in sizes.items())
    return off / squares if squares else 0.0


def _widen_zeros(floor: Floor, kept: Mapping[str, torch.Tensor], key: str) -> None:
    """Where two numbers cancel out by chance is counted as a Poisson process: four of its deviations, or a few zeros."""
    zeros = float(kept[key])
    seen = floor.error(STEPS + key) * zeros
    floor.raise_to(STEPS + key, (seen + SIGMAS * max(seen, 1.0) ** 0.5) / max(zeros, 1.0))


def _widen_turning(floor: Floor, case: Case, shown: Shown) -> None:
    """What turns over changes the second moment, the masters and the weights."""
    moved, kept = dict[str, torch.Tensor](), shown.kept
    for step in range(1, case.training.steps + 1):
        for parameter in trained(case):
            name = parameter.name
            first, second = kept[f"{step}/{FIRST}/{name}"], kept[f"{step}/{SECOND}/{name}"]
            error = floor.error(f"{STEPS}{step}/{FIRST}/{name}")
            # Few elements make most of a sum of squares: chance may leave them alone in every run.
            floor.raise_to(f"{STEPS}{step}/{SECOND}/{name}", max(SQUARED * error, _by_chance(case, step, name, shown) / FLOORS))
            rate, _ = formulas.rates(Schedule.of(case.training), parameter, step - 1)
            moved[name] = moved.get(name, 0.0) + rate * _turning(case, step, error, first, second)
            largest = moved[name].flatten().topk(min(TURNED, moved[name].numel())).values
            off = largest.norm()
            for kind in (MASTER, VALUE) if case.has_masters else (VALUE,):
                of = f"{step}/{kind}/{name}"
                floor.turn(STEPS + of, float(largest.max()))
                found = floor.error(STEPS + of) ** 2
                floor.raise_to(STEPS + of, float((found + (off / kept[of].norm()) ** 2) ** 0.5))


def _by_chance(case: Case, step: int, name: str, shown: Shown) -> float:
    """The relative error of a second moment that chance reaches once in 270000, if its elements' errors are independent.

    A sum of squares of normal numbers with weights w is above sum(w) + 2 sqrt(x sum(w^2)) + 2 x max(w) with a probability of
    exp(-x) at most (Laurent and Massart, Annals of Statistics 28 (2000), lemma 1).
    """
    adam, of = case.training.adam, shown.kept[f"{step}/{SECOND}/{name}"]
    off = shown.deviation(f"{step}/{FIRST}/{name}") / (1 - adam.beta1)
    weights = (2 * (1 - adam.beta2) * shown.gradient(case, step, name) * off).square()
    most = weights.sum() + 2 * (CHANCE * weights.square().sum()).sqrt() + 2 * CHANCE * weights.max()
    size = of.norm()
    return float(most.sqrt() / size) if size else 0.0


def _turning(case: Case, step: int, error: float, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How far rounding may move each element's update, in learning rates.

    `error` is the relative error of the first moment; both moments are the truth's. A gradient of nothing, as that of a token
    that is not there, is nothing in every precision.
    """
    adam = case.training.adam
    mean, root = first / (1 - adam.beta1**step), (second / (1 - adam.beta2**step)).sqrt()
    off = SIGMAS * error * mean.square().mean().sqrt()
    return (off / (root + adam.epsilon)).clamp(max=MOST).where(second != 0, 0.0)
