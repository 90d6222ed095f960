"""The dense layers' MLP."""

from __future__ import annotations

from validation.checks.marks import dense_layers
from validation.checks.parity import Parity

SECTION = (40, "Dense MLP")


@dense_layers
def test_mlp_output(parity: Parity, layer: int) -> None:
    """Gate, up and down, summed over the tensor-parallel ranks."""
    parity.agrees(f"layers.{layer}.mlp.output")
