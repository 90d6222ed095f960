"""The gradient that reaches every probe, from the back: where it goes wrong first is where the cause is."""

from __future__ import annotations

from validation.checks.marks import every_probe_gradient
from validation.checks.parity import Parity

SECTION = (78, "Probe Gradients")


@every_probe_gradient
def test_probe_gradient(parity: Parity, probe: str) -> None:
    """Tensors between modules are right going back as well as forward, in the rank that holds them."""
    parity.probe_gradient_agrees(probe)
