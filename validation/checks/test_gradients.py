"""The gradient of every parameter, after megatron-core has reduced and scaled it."""

from __future__ import annotations

from validation.checks.marks import trained_parameters
from validation.checks.parity import Parity

SECTION = (80, "Gradients")


@trained_parameters
def test_gradient(parity: Parity, parameter: str) -> None:
    """Nearly half of the silent bugs leave the forward pass alone: a reduction missing, doubled, or over the wrong ranks."""
    parity.gradient_agrees(parameter)
