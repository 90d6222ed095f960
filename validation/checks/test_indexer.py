"""The indexer of sparse attention (DSA): which keys each query attends to, in the order in which that is computed."""

from __future__ import annotations

from validation.checks.marks import sparse_layers
from validation.checks.parity import Parity

SECTION = (32, "Sparse Attention (DSA)")


@sparse_layers
def test_indexer_query(parity: Parity, layer: int) -> None:
    """The up-projection of the query's latent by the indexer's own weights, and its rotary part, which comes first."""
    parity.agrees(f"layers.{layer}.indexer.query")


@sparse_layers
def test_indexer_key(parity: Parity, layer: int) -> None:
    """One key for all heads of the indexer: projection, norm, and the rotary part."""
    parity.agrees(f"layers.{layer}.indexer.key")


@sparse_layers
def test_indexer_head_weights(parity: Parity, layer: int) -> None:
    """By how much each head of the indexer counts for a query, before it is scaled."""
    parity.agrees(f"layers.{layer}.indexer.weights")


@sparse_layers
def test_indexer_scores(parity: Parity, layer: int) -> None:
    """The positive products of query and key, weighed and summed over heads; 0 for the keys behind the query."""
    parity.agrees(f"layers.{layer}.indexer.scores")


@sparse_layers
def test_indexer_selects_the_same_keys(parity: Parity, layer: int) -> None:
    """Every query attends to the reference's keys, near-ties of a lower precision aside."""
    parity.keys_agree(f"layers.{layer}.indexer.keys")
