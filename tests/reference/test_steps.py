"""The reference's loss and its update of the expert bias, by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.steps import stepped
from validation.case.training import Training
from validation.compare.precision import computing_in
from validation.reference import loss
from validation.reference.batch import Batch, make_batch
from validation.reference.steps import MOST, Loads, across


def case(**training: Any) -> Case:
    return Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1, 4, 2, 3, training=Training(**training))


LOSSES = torch.arange(12.0).view(4, 3)
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1]]).bool()
BATCH = Batch(torch.zeros(4, 3), torch.zeros(4, 3), MASK)


def test_the_loss_per_token_is_over_all_that_count() -> None:
    assert loss.total(case(), LOSSES, BATCH) == (0 + 1 + 2 + 3 + 11) / 5


def test_the_mean_loss_is_of_each_micro_batch() -> None:
    """Two sequences to a micro-batch: four tokens count in the first and one in the second."""
    assert loss.total(case(loss="mean"), LOSSES, BATCH) == ((0 + 1 + 2 + 3) / 4 + 11 / 1) / 2


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_an_expert_with_too_few_tokens_gains(precision: str) -> None:
    """And one with too many loses the same; the bias stays what float32 can hold."""
    bias = torch.tensor([0.1, 0.2, 0.3, 0.4])
    gate = SimpleNamespace(e_score_correction_bias=bias.clone())
    loads = Loads({3: gate}, case())
    loads.counts = {3: torch.tensor([5, 1, 3, 3])}
    with computing_in(precision):
        loads.move_biases()
    moved = torch.tensor([-1.0, 1.0, 0.0, 0.0]) * loads._rate
    assert torch.equal(gate.e_score_correction_bias, bias + moved)


class Gate(torch.nn.Module):
    """A router that chooses the experts that it is given."""

    def forward(self, experts: torch.Tensor) -> tuple[None, None, torch.Tensor]:
        """As a router answers: logits, weights, experts."""
        return None, None, experts


@pytest.mark.parametrize(("real", "counted"), [(None, [5, 4, 3]), (MASK, [1, 2, 2])])
def test_padding_is_no_load(real: torch.Tensor | None, counted: list[int]) -> None:
    experts = torch.tensor([0, 1, 2, 2, 0, 1, 1, 2, 0, 0, 0, 1])[:, None]
    gate = Gate()
    loads = Loads({3: gate}, case())
    with loads.counting(replace(BATCH, real=real)):
        gate(experts)
    assert loads.counts[3].tolist()[:3] == counted


def test_every_step_has_a_batch_of_its_own() -> None:
    first, second = make_batch(case()), make_batch(case(), 1)
    assert not torch.equal(first.tokens, second.tokens)
    assert set(second.tensors(1)) == {"1/tokens", "1/labels", "1/mask"}


def test_what_is_compared_after_steps_is_known_before() -> None:
    """A norm, every parameter with two moments, the expert bias without."""
    found = stepped(case(steps=2))
    assert found["1/gradient_norm"].shape == ()
    assert found["2/exp_avg_sq/model.norm.weight"].title == "Step 2 Final Norm Weight Second Moment"
    bias = [key for key in found if key.endswith("e_score_correction_bias")]
    assert len(bias) == 2 * len(TINY.model.moe_layers)
    assert all("/value/" in key for key in bias)
    assert stepped(case()) == {}


@pytest.mark.parametrize(
    ("limit", "first", "second"), [(0.05, 2.57, 2.56), (1.0, 2.57, 0.4), (5.0, 2.57, 2.6), (1.0, 0.1, 3.0)]
)
def test_one_of_two_steps_is_clipped(limit: float, first: float, second: float) -> None:
    """By at least two in norm; the factor is a power of two, which rounds nothing."""
    factor = across(limit, first, second)
    assert torch.frexp(torch.tensor(factor)).mantissa == 0.5
    assert (second * factor >= 2 * limit) if first <= limit else (second * factor <= limit / 2)


@pytest.mark.parametrize(("limit", "second"), [(1e9, 2.56), (0.05, 0.0), (2 * MOST * 2.56, 2.56)])
def test_a_step_that_would_hide_the_one_before_is_left_alone(limit: float, second: float) -> None:
    assert across(limit, 0.01, second) == 1.0
