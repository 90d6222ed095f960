"""The balancing losses, against their definitions written out token by token."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference.balancing import Balance, layer_loss, sequence_balance, z_loss
from validation.reference.batch import Batch


def by_hand(logits: list[list[float]], chosen: int) -> float:
    """Equations 17 to 20 of the DeepSeek-V3 report for one sequence, without its coefficient."""
    tokens, experts = len(logits), len(logits[0])
    scores = [[1 / (1 + math.exp(-logit)) for logit in token] for token in logits]
    total = 0.0
    for expert in range(experts):
        taken = sum(expert in sorted(range(experts), key=lambda one: -token[one])[:chosen] for token in scores)
        frequency = experts / (chosen * tokens) * taken
        probability = sum(token[expert] / sum(token) for token in scores) / tokens
        total += frequency * probability
    return total


@pytest.fixture
def logits() -> torch.Tensor:
    """Of 4 sequences of 3 tokens for 16 experts."""
    return torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("chosen", [1, 4, 16])
def test_the_balance_loss_of_each_sequence_is_the_report_s(logits: torch.Tensor, chosen: int) -> None:
    found = sequence_balance(logits, chosen)
    assert found.tolist() == pytest.approx([by_hand(sequence, chosen) for sequence in logits.tolist()], rel=1e-14)


def test_even_loads_and_even_scores_are_one() -> None:
    """Its least value, whatever the number of experts."""
    eye = 5.0 * torch.eye(4, dtype=torch.float64)
    assert float(sequence_balance(eye[None], 1)) == pytest.approx(1.0)
    assert float(sequence_balance(eye[None, :1].expand(1, 4, 4), 1)) > 1.5


def test_the_z_loss_is_the_mean_of_squares(logits: torch.Tensor) -> None:
    squares = [math.log(sum(math.exp(logit) for logit in token)) ** 2 for sequence in logits.tolist() for token in sequence]
    assert float(z_loss(logits)) == pytest.approx(sum(squares) / len(squares), rel=1e-14)


def case(**training: Any) -> Case:
    return Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1, 4, 2, 3, training=Training(**training))


def test_sequences_are_balanced_each_by_itself(logits: torch.Tensor) -> None:
    expected = sum(by_hand(sequence, 4) for sequence in logits.tolist()) / 4
    assert float(layer_loss(case(balancing="seq_aux_loss"), logits)) == pytest.approx(expected, rel=1e-14)


def test_micro_batches_are_balanced_each_as_a_whole(logits: torch.Tensor) -> None:
    """Two sequences go through the layer together."""
    first, second = logits[:2].reshape(6, 16).tolist(), logits[2:].reshape(6, 16).tolist()
    expected = (by_hand(first, 4) + by_hand(second, 4)) / 2
    assert float(layer_loss(case(balancing="aux_loss"), logits)) == pytest.approx(expected, rel=1e-14)


REAL = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]]).bool()


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_padding_is_in_no_balancing_loss(logits: torch.Tensor, micro_batch_size: int) -> None:
    """As if there were the other tokens alone; a z-loss is a mean over micro-batches of different lengths."""
    tokens = [[token for token, there in zip(*row, strict=True) if there] for row in zip(logits.tolist(), REAL, strict=True)]
    size = micro_batch_size
    together = [[*itertools.chain(*tokens[start : start + size])] for start in range(0, 4, size)]
    of = {name: replace(case(balancing=name), micro_batch_size=size) for name in ("seq_aux_loss", "aux_loss", "z_loss")}
    found = {name: float(layer_loss(one, logits, REAL)) for name, one in of.items()}
    squares = [sum(math.log(sum(map(math.exp, token))) ** 2 for token in some) / len(some) for some in together]
    assert found["seq_aux_loss"] == pytest.approx(sum(by_hand(some, 4) for some in tokens) / 4, rel=1e-14)
    assert found["aux_loss"] == pytest.approx(sum(by_hand(some, 4) for some in together) / len(together), rel=1e-14)
    assert found["z_loss"] == pytest.approx(sum(squares) / len(squares), rel=1e-14)


class Gate(torch.nn.Module):
    """A router that hands on the logits that it is given."""

    def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """As a router answers: logits, weights, experts."""
        return logits, None, None


@pytest.mark.parametrize(("name", "z"), [("seq_aux_loss", 0.25), ("aux_loss", 0.25), ("seq_aux_loss", 0.0)])
def test_a_z_loss_beside_another_is_added_with_its_own_coefficient(logits: torch.Tensor, name: str, z: float) -> None:
    training = Training().with_settings(
        {
            "model.moe_router_load_balancing_type": name,
            "model.moe_aux_loss_coeff": 0.5,
            **({"model.moe_z_loss_coeff": z} if z else {}),
        }
    )
    one = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1, 4, 2, 3, training=training)
    gate = Gate()
    balance = Balance({1: gate}, one)
    with balance.watching(Batch(*torch.zeros(3, 4, 3))):
        gate(logits.flatten(0, 1))
    assert float(balance.total()) == pytest.approx(0.5 * float(layer_loss(one, logits)) + z * float(z_loss(logits)), rel=1e-14)
