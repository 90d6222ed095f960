"""The router: which experts, and with what weight."""

from __future__ import annotations

from validation.checks.marks import balanced_layers, moe_layers, scored_layers
from validation.checks.parity import Parity

SECTION = (50, "Router")


@moe_layers
def test_router_logits(parity: Parity, layer: int) -> None:
    """The gate's linear layer."""
    parity.agrees(f"layers.{layer}.moe.router.logits")


@scored_layers
def test_router_scores(parity: Parity, layer: int) -> None:
    """Sigmoid scores, before the bias that only chooses."""
    parity.agrees(f"layers.{layer}.moe.router.scores")


@moe_layers
def test_router_selects_the_same_experts(parity: Parity, layer: int) -> None:
    """Groups, expert bias and top-k: every token goes to the reference's experts."""
    parity.routes_agree(f"layers.{layer}.moe.router.experts")


@moe_layers
def test_router_weights(parity: Parity, layer: int) -> None:
    """Normalised over the chosen experts, scaled, and zero elsewhere."""
    parity.agrees(f"layers.{layer}.moe.router.weights")


@balanced_layers
def test_balancing_loss(parity: Parity, layer: int) -> None:
    """The loss that balances the experts' loads, before its coefficient; its gradient is part of the logits' gradient."""
    parity.agrees(f"layers.{layer}.moe.balancing")
