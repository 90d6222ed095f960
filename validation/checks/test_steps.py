"""Optimizer steps: AdamW with clipping, and the update of the expert bias, against torch's on the HuggingFace model."""

from __future__ import annotations

from validation.checks.marks import every_gradient_norm, every_rate, everything_stepped
from validation.checks.parity import Parity

SECTION = (85, "Optimizer Steps")


@every_rate
def test_rates(parity: Parity, key: str) -> None:
    """The learning rate and the weight decay of each parameter group are those of the schedule's formula."""
    parity.rates_agree(key)


@every_gradient_norm
def test_gradient_norm(parity: Parity, key: str) -> None:
    """The norm of all gradients over all ranks, each counted once; clipping divides by it."""
    parity.step_agrees(key)


@everything_stepped
def test_parameter_and_moments(parity: Parity, key: str) -> None:
    """After each step: both moments, then the parameter; of the expert bias, which no gradient moves, the value."""
    parity.step_agrees(key)
