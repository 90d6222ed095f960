"""Optimizer steps: clipping, and the update of the expert bias, against torch's optimizer on the HuggingFace model."""

from __future__ import annotations

from validation.checks.marks import every_rate, everything_stepped, over_all_gradients
from validation.checks.parity import Parity

SECTION = (85, "Optimizer Steps")


@every_rate
def test_rates(parity: Parity, key: str) -> None:
    """The learning rate and the weight decay of each parameter group are those of the schedule's formula."""
    parity.rates_agree(key)


@over_all_gradients
def test_gradient_norm(parity: Parity, key: str) -> None:
    """The norm of all gradients over all ranks, each counted once; clipping divides by it. The zeros in them likewise."""
    parity.step_agrees(key)


@everything_stepped
def test_parameter_and_moments(parity: Parity, key: str) -> None:
    """After each step: both moments, then the parameter; of the expert bias, which no gradient moves, the value."""
    parity.step_agrees(key)
