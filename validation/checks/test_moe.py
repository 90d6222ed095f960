"""Mixture of experts: dispatch, experts, combine, and the shared expert."""

from __future__ import annotations

from validation.checks.marks import isolated_moe_layers, moe_layers, shared_expert_layers
from validation.checks.parity import Parity

SECTION = (60, "Mixture of Experts (MoE)")


@shared_expert_layers
def test_shared_expert_output(parity: Parity, layer: int) -> None:
    """The expert that every token goes to."""
    parity.agrees(f"layers.{layer}.moe.shared_expert")


@isolated_moe_layers
def test_dispatched_tokens(parity: Parity, layer: int) -> None:
    """Every token sent to all of its experts, and to no other."""
    parity.agrees(f"layers.{layer}.moe.dispatched")


@isolated_moe_layers
def test_weighted_expert_outputs(parity: Parity, layer: int) -> None:
    """What each expert makes of each of its tokens, times the router's weight."""
    parity.agrees(f"layers.{layer}.moe.experts")


@moe_layers
def test_routed_experts_output(parity: Parity, layer: int) -> None:
    """Tokens sent to their experts, computed there, weighted and brought back to their place."""
    parity.agrees(f"layers.{layer}.moe.routed")


@moe_layers
def test_moe_output(parity: Parity, layer: int) -> None:
    """Routed and shared experts together."""
    parity.agrees(f"layers.{layer}.moe.output")
