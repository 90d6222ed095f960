"""Multi-token prediction (MTP): what stands around its block, whose own parts are checked with those of every layer.

At each position the layer joins what the main model made of it with the token that follows. The last position has none
to follow it, so that every statement here is about the positions before it.
"""

from __future__ import annotations

from validation.checks.marks import mtp_layers
from validation.checks.parity import Parity

SECTION = (72, "Multi-Token Prediction (MTP)")


@mtp_layers
def test_embedding_output(parity: Parity, layer: int) -> None:
    """The next token's embedding, by the main model's weight, of which the last pipeline stage has a copy."""
    parity.agrees(f"layers.{layer}.mtp.embedding")


@mtp_layers
def test_embedding_norm_output(parity: Parity, layer: int) -> None:
    """The norm of the next token's embedding."""
    parity.agrees(f"layers.{layer}.mtp.embedding_norm")


@mtp_layers
def test_hidden_norm_output(parity: Parity, layer: int) -> None:
    """The norm of what the layers before have made of the position, which has passed the final norm already."""
    parity.agrees(f"layers.{layer}.mtp.hidden_norm")


@mtp_layers
def test_projection_output(parity: Parity, layer: int) -> None:
    """Both, embedding first, projected to the width of one."""
    parity.agrees(f"layers.{layer}.mtp.projection")


@mtp_layers
def test_final_norm_output(parity: Parity, layer: int) -> None:
    """The norm behind the block, in front of the shared output head."""
    parity.agrees(f"layers.{layer}.mtp.final_norm")


@mtp_layers
def test_logits(parity: Parity, layer: int) -> None:
    """By the main model's output head."""
    parity.agrees(f"layers.{layer}.mtp.logits")


@mtp_layers
def test_token_losses(parity: Parity, layer: int) -> None:
    """Cross entropy with the token after the next one."""
    parity.agrees(f"layers.{layer}.mtp.token_loss")


@mtp_layers
def test_loss(parity: Parity, layer: int) -> None:
    """What the layer adds to the loss of training: which positions count, how they are averaged, and with what weight."""
    parity.agrees(f"layers.{layer}.mtp.loss")
