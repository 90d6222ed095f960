"""What one element that rounding moves does to the step behind: the floors of that step know it, and no other does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.steps import trained
from validation.case.training import Training
from validation.compare.limits import FLOORS
from validation.compare.precision import DTYPES, computing_in
from validation.reference import compute, models, step_floor, turning
from validation.reference.batch import make_batch
from validation.reference.checkpoint import Checkpoint
from validation.reference.floor import Floor, difference_from
from validation.reference.record import Recording
from validation.reference.sources import Precision
from validation.reference.steps import Steps

MODEL = replace(TINY.model, num_hidden_layers=1, first_k_dense_replace=0)
CASE = Case("tiny", MODEL, Layout(), "fp32", "local", "gloo", 1, 4, 2, 8, training=Training(steps=2))
NAME = "model.layers.0.mlp.experts.up_proj.weight"
RATE, EPSILON = CASE.training.adam.learning_rate, CASE.training.adam.epsilon


class Truth:
    """Two steps of a case's model in fp64, and all that another run of them needs."""

    kept: Mapping[str, torch.Tensor] = MappingProxyType({})

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        weights, _ = compute._weights(case, folder)
        assert isinstance(weights, Checkpoint)
        self.weights = weights
        first, *self.later = [make_batch(case, step) for step in range(2)]
        with computing_in("fp64"):
            self.steps = self.fresh()
            with self.steps.loads.counting(first):
                self.models.quietly(first, Recording())
            self.chosen = step_floor.true_steps(
                self.steps, self.later, self.models.quietly, lambda found: self.models.routing(found, self.weights)
            )
        self.kept = self.steps.kept

    def fresh(self) -> Steps:
        """Of the model as it was before."""
        precision = Precision(torch.float64, DTYPES[self.case.precision])
        self.models = models.Models.build(self.case, self.weights, precision, torch.device("cpu"))
        return Steps(self.models.hf, self.models.mtp, self.case, self.kept or None)

    def second(self, steps: Steps) -> dict[str, torch.Tensor]:
        """What the second step leaves from where `steps` are."""
        with steps.loads.counting(self.later[0]):
            self.models.quietly(self.later[0], Recording(self.chosen[0]))
        steps.take(2)
        return steps.kept

    def raised(self, key: str, at: int, error: float) -> tuple[Floor, turning.Shown]:
        """The floors behind a single run whose only error is that of one element of a first moment."""
        shown, found = turning.Shown(self.kept, {}), {name: value.clone() for name, value in self.kept.items()}
        found[key].view(-1)[at] += error
        shown.add(found, {})
        floor = Floor({f"steps/{name}": value for name, value in self.kept.items()})
        floor.add((f"steps/{name}", value) for name, value in found.items())
        step_floor.add_gradients(floor, self.case, shown, found)
        turning.raise_later(floor, self.fresh(), shown, self.later, self.chosen, self.models.quietly)
        return floor, shown


def test_steps_that_go_back_come_to_the_same(tmp_path: Path) -> None:
    """Masters included; a weight that is moved in between goes with its master."""
    truth = Truth(replace(CASE, precision="bf16"), tmp_path)
    with computing_in("fp64"):
        steps = truth.fresh()
        steps.go_back(truth.kept, 1)
        found = truth.second(steps)
        assert max(difference_from(truth.kept[key], value).relative_error for key, value in found.items()) < 1e-14
        steps.go_back(truth.kept, 1)
        steps.move(NAME, 70, 0.5)
        moved = (steps.values()[NAME] - truth.kept[f"1/value/{NAME}"]).flatten()
    assert moved.nonzero().tolist() == [[70]]
    assert moved[70] == pytest.approx(0.5, rel=2**-8)


def test_floors_know_what_the_one_element_does_that_may_turn(tmp_path: Path) -> None:
    """Half of it, for limits are twice the floor; and nothing where the only error is of a gradient that keeps its sign."""
    truth = Truth(CASE, tmp_path)
    first = truth.kept[f"1/exp_avg/{NAME}"]
    small, large = first.abs().where(first != 0, 1.0).argmin(), first.abs().argmax()
    with computing_in("fp64"):
        floor, shown = truth.raised(f"1/exp_avg/{NAME}", int(small), 1e-8)
        by = turning.turned(CASE, parameters(MODEL)[NAME], 1, shown).flatten()
        assert by.nonzero().tolist() == [[small]]
        assert 0.9 * RATE < abs(by[small]) <= 2 * RATE
        steps = truth.fresh()
        steps.go_back(truth.kept, 1)
        steps.move(NAME, int(small), float(by[small]))
        found = {key: value for key, value in truth.second(steps).items() if value.dtype == torch.float64}
        for key, value in found.items():
            done = difference_from(truth.kept[key], value).relative_error
            assert floor.error(f"steps/{key}") == pytest.approx(max(done / FLOORS, 2**-53), rel=1e-6), key
        for parameter in trained(CASE):
            exact = shown.gradient(CASE, 2, parameter.name)
            taken = turning.taken(CASE, *(of[f"{step}/exp_avg/{parameter.name}"] for step, of in ((1, truth.kept), (2, found))))
            done = difference_from(exact, taken).relative_error
            found_floor = floor.error(f"steps/2/gradient/{parameter.name}")
            assert found_floor == pytest.approx(max(done / FLOORS, 2**-24), rel=1e-6), parameter.name
        floor, _ = truth.raised(f"1/exp_avg/{NAME}", int(large), 1e-8)
    assert max(floor.error(f"steps/{key}") for key in truth.kept if key.startswith("2/")) < 1e-7


def test_an_update_turns_as_far_as_the_error_of_its_gradient_permits() -> None:
    """Against epsilon: what is far larger than both stays, whatever its error; a row without errors has none to turn."""
    name, adam = "model.layers.0.self_attn.o_proj.weight", CASE.training.adam
    parameter = parameters(MODEL)[name]
    gradient = torch.zeros(parameter.shape, dtype=torch.float64)
    gradient[:2, :3] = torch.tensor([0.0, 2e-8, 1e-3])
    kept = {f"1/exp_avg/{name}": (1 - adam.beta1) * gradient, f"1/exp_avg_sq/{name}": (1 - adam.beta2) * gradient**2}
    error = torch.zeros_like(gradient)
    error[0, :3] = (1 - adam.beta1) * 1e-9
    shown = turning.Shown(kept, {})
    for sign in (1, -1):
        shown.add({f"1/exp_avg/{name}": kept[f"1/exp_avg/{name}"] + sign * error}, {})
    found, off = turning.turned(CASE, parameter, 1, shown), turning.SIGMAS * 1e-9
    exact = (2e-8 - off) / (2e-8 - off + EPSILON) - 2e-8 / (2e-8 + EPSILON)
    assert found[0, 1] == pytest.approx(-RATE * exact)
    assert abs(found[0, 2]) < 1e-7 * RATE
    assert not found[0, 0]
    assert not found[1:].any()
