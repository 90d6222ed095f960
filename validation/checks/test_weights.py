"""Both models have the same weights, to the bit."""

from __future__ import annotations

from validation.checks.marks import INFERS, TRAINS, every_parameter
from validation.checks.parity import Parity

SECTION = (10, "Weights")
MODES = (TRAINS, INFERS)


def test_every_key_is_used(parity: Parity) -> None:
    """The checkpoint holds nothing that the model would silently go without."""
    parity.every_key_is_used()


def test_every_tensor_is_set(parity: Parity) -> None:
    """Every Megatron parameter and buffer, NaN at first, is filled from the checkpoint."""
    parity.every_tensor_is_set()


@every_parameter
def test_weight_is_equal(parity: Parity, parameter: str) -> None:
    """Cut, joined and read back, each weight is the checkpoint's, and replicas of it are the same."""
    parity.weight_is_equal(parameter)
