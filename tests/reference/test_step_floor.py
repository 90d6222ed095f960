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
    floor.add((f"steps/{key}", value * (1 + error if "exp_avg/" in key else 1)) for key, value in kept.items())
    step_floor.widen(floor, CASE, kept)
    return {name.removeprefix("steps/"): error for name, error in floor._errors.items()}


def test_two_small_gradients_may_turn() -> None:
    """Each moves its weight by two learning rates at most; the rest, 4 % off, by no more than its share."""
    gradient = torch.ones(64, dtype=torch.float64)
    gradient[3] = gradient[5] = 1e-6
    found = widened(gradient, error=0.01)
    assert found[f"1/master/{NAME}"] == pytest.approx(2 * RATE * 2**0.5 / 8, rel=1e-6)
    assert found[f"1/value/{NAME}"] == found[f"1/master/{NAME}"]


def test_large_gradients_keep_their_sign() -> None:
    found = widened(torch.ones(64, dtype=torch.float64), error=0.01)
    assert found[f"1/master/{NAME}"] == pytest.approx(0.04 * RATE * 2**0.5 / 8, rel=1e-2)


def test_the_second_moment_is_off_by_no_less_than_the_first() -> None:
    found = widened(torch.ones(64, dtype=torch.float64), error=0.01)
    assert found[f"1/exp_avg_sq/{NAME}"] == pytest.approx(step_floor.SQUARED * 0.01, rel=1e-6)


def test_masters_are_compared_where_there_are_any() -> None:
    """Behind the moments and before the weight that they are rounded to; fp32 has none, nor has an expert bias."""
    titles = [one.title for one in stepped(CASE).values()]
    at = titles.index("Step 1 Final Norm Weight First Moment")
    assert titles[at + 2 : at + 4] == ["Step 1 Master Final Norm Weight", "Step 1 Final Norm Weight"]
    assert not any("Master" in one.title for one in stepped(replace(CASE, precision="fp32")).values())
