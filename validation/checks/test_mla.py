"""Multi-latent attention, in the order in which it is computed."""

from __future__ import annotations

from validation.checks.marks import attending_layers, every_layer, other_epsilon, query_latent_layers, sparse_layers
from validation.checks.parity import Parity

SECTION = (30, "Multi-Latent Attention (MLA)")


@other_epsilon
def test_latent_norm_epsilon(parity: Parity, epsilon: float) -> None:
    """The latents' norms have transformers' epsilon, 1e-6, where the model's own is another."""
    parity.latent_epsilon_agrees()


@query_latent_layers
def test_query_latent(parity: Parity, layer: int) -> None:
    """The query's down-projection, before its norm."""
    parity.agrees(f"layers.{layer}.attention.q_latent")


@every_layer
def test_kv_latent(parity: Parity, layer: int) -> None:
    """The down-projection of key and value, with the shared rotary key still unrotated."""
    parity.agrees(f"layers.{layer}.attention.kv_latent")


@attending_layers
def test_query_after_rope(parity: Parity, layer: int) -> None:
    """Latent norm, up-projection, and the rotary part: layout, frequencies, mscale."""
    parity.agrees(f"layers.{layer}.attention.query")


@attending_layers
def test_key_after_rope(parity: Parity, layer: int) -> None:
    """The same for the key, whose rotary part all heads share."""
    parity.agrees(f"layers.{layer}.attention.key")


@attending_layers
def test_value(parity: Parity, layer: int) -> None:
    """The value is the other half of the key's up-projection."""
    parity.agrees(f"layers.{layer}.attention.value")


@sparse_layers
def test_projected_query(parity: Parity, layer: int) -> None:
    """The up-projection of the query's latent, its rotary part still unrotated."""
    parity.agrees(f"layers.{layer}.attention.projected_query")


@sparse_layers
def test_absorbed_query(parity: Parity, layer: int) -> None:
    """The query with the key's up-projection multiplied into it, and the rotary part: layout, frequencies, mscale."""
    parity.agrees(f"layers.{layer}.attention.absorbed_query")


@sparse_layers
def test_absorbed_key(parity: Parity, layer: int) -> None:
    """The one key of all heads: the normed latent, and the rotary part."""
    parity.agrees(f"layers.{layer}.attention.absorbed_key")


@every_layer
def test_core_attention_output(parity: Parity, layer: int) -> None:
    """Softmax scale and causal mask."""
    parity.agrees(f"layers.{layer}.attention.core")


@every_layer
def test_attention_output(parity: Parity, layer: int) -> None:
    """The output projection, summed over the tensor-parallel ranks."""
    parity.agrees(f"layers.{layer}.attention.output")
