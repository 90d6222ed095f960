"""What rounding may do to optimizer steps: elements whose gradient is within rounding of zero turn over."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.steps import stepped
from validation.case.training import Training
from validation.reference import step_floor
from validation.reference.floor import Floor
from validation.reference.turning import Shown

MODEL = replace(TINY.model, num_hidden_layers=1, first_k_dense_replace=1)
CASE = Case("tiny", MODEL, Layout(), "bf16", "local", "gloo", 1, 4, 2, 16, training=Training(steps=1))
NAME = "model.norm.weight"
RATE = CASE.training.adam.learning_rate


def widened(gradient: torch.Tensor, error: float) -> dict[str, float]:
    """The floors of one parameter after a step, whose first moments are off by `error` in the runs of the floor."""
    adam = CASE.training.adam
    kept = {key: torch.ones(one.shape, dtype=torch.float64) for key, one in stepped(CASE).items()}
    kept[f"1/exp_avg/{NAME}"] = (1 - adam.beta1) * gradient
    kept[f"1/exp_avg_sq/{NAME}"] = (1 - adam.beta2) * gradient**2
    floor = Floor({f"steps/{key}": value for key, value in kept.items()})
    run = {key: value * (1 + error if "exp_avg/" in key else 1) for key, value in kept.items()}
    floor.add((f"steps/{key}", value) for key, value in run.items())
    shown = Shown(kept, {"1/a": 1.0})
    shown.add(run, {"1/a": 1.0})
    step_floor.widen(floor, CASE, shown)
    turned = {f"{name} of an element": largest for name, largest in floor._turned.items()}
    return {name.removeprefix("steps/"): error for name, error in (floor._errors | turned).items()}


def test_two_small_gradients_may_turn() -> None:
    """Each moves its weight by two learning rates at most; the rest, 4 % off, by no more than its share."""
    gradient = torch.ones(64, dtype=torch.float64)
    gradient[3] = gradient[5] = 1e-6
    found = widened(gradient, error=0.01)
    assert found[f"1/master/{NAME}"] == pytest.approx(2 * RATE * 2**0.5 / 8, rel=1e-6)
    assert found[f"1/value/{NAME}"] == found[f"1/master/{NAME}"]
    assert found[f"1/value/{NAME} of an element"] == pytest.approx(2 * RATE)


def test_large_gradients_keep_their_sign() -> None:
    found = widened(torch.ones(64, dtype=torch.float64), error=0.01)
    assert found[f"1/master/{NAME}"] == pytest.approx(0.04 * RATE * 2**0.5 / 8, rel=1e-2)
    assert found[f"1/value/{NAME} of an element"] == pytest.approx(0.04 * RATE, rel=1e-2)


def test_a_gradient_of_nothing_does_not_turn() -> None:
    gradient = torch.zeros(64, dtype=torch.float64)
    gradient[:32] = 1.0
    found = widened(gradient, error=0.01)
    assert found[f"1/value/{NAME} of an element"] == pytest.approx(0.04 * RATE / 2**0.5, rel=1e-2)


def test_errors_of_the_parameters_that_cancel_out_in_the_norm_do_not_elsewhere() -> None:
    """Two parameters of equal norm, one 1e-3 too large and one too small: the norm of both may be 1e-3 off."""
    truth, run = {"1/a": 3.0, "1/b": 3.0, "2/a": 9.0}, {"1/a": 3.003, "1/b": 2.997, "2/a": 1.0}
    assert step_floor._of_norm("1/", truth, {"1/a": 3.0, "1/b": 3.0, "2/a": 9.0}, run) == pytest.approx(1e-3)
    assert step_floor._of_norm("1/", dict.fromkeys(truth, 0.0), run) == 0.0
    kept = {key: torch.ones(one.shape, dtype=torch.float64) for key, one in stepped(CASE).items()}
    floor = Floor({f"steps/{key}": value for key, value in kept.items()})
    floor.add((f"steps/{key}", value) for key, value in kept.items())
    shown = Shown(kept, truth)
    shown.add(kept, run)
    step_floor.widen(floor, CASE, shown)
    assert floor.error("steps/1/gradient_norm") == pytest.approx(1e-3 + 3 * 2**-24)


@pytest.mark.parametrize(("size", "least"), [(64, 0.01508), (4096, step_floor.SQUARED * 0.01)])
def test_the_second_moment_is_off_by_no_less_than_chance_permits(size: int, least: float) -> None:
    """Its runs show no error here. Of few elements many may be off to the worse side; not of many."""
    assert widened(torch.ones(size, dtype=torch.float64), error=0.01)[f"1/exp_avg_sq/{NAME}"] == pytest.approx(least, rel=1e-3)


def test_masters_are_compared_where_there_are_any() -> None:
    """Behind the moments and before the weight that they are rounded to; fp32 has none, nor has an expert bias."""
    titles = [one.title for one in stepped(CASE).values()]
    at = titles.index("Step 1 Final Norm Weight First Moment")
    assert titles[at + 2 : at + 4] == ["Step 1 Master Final Norm Weight", "Step 1 Final Norm Weight"]
    assert not any("Master" in one.title for one in stepped(replace(CASE, precision="fp32")).values())
