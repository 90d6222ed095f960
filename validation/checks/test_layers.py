"""The residual stream: embedding, norms, and what each layer hands on."""

from __future__ import annotations

from validation.checks.marks import every_layer, input_norm_layers, mlp_norm_layers
from validation.checks.parity import Parity

SECTION = (20, "Embedding and Residual Stream")


def test_embedding_output(parity: Parity) -> None:
    """Tokens become the same vectors, whichever rank holds their part of the vocabulary."""
    parity.agrees("embedding")


@input_norm_layers
def test_input_norm_output(parity: Parity, layer: int) -> None:
    """The norm before attention: weight and epsilon."""
    parity.agrees(f"layers.{layer}.input_norm")


@every_layer
def test_post_attention_residual(parity: Parity, layer: int) -> None:
    """Attention's output is added to what went into the layer."""
    parity.agrees(f"layers.{layer}.attention.residual")


@mlp_norm_layers
def test_pre_mlp_norm_output(parity: Parity, layer: int) -> None:
    """The norm before the MLP or the experts."""
    parity.agrees(f"layers.{layer}.mlp_norm")


@every_layer
def test_layer_output(parity: Parity, layer: int) -> None:
    """What the layer hands to the next one, over pipeline stages too."""
    parity.agrees(f"layers.{layer}.output")
