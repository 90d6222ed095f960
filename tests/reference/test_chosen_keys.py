"""What an indexer chooses, and by how much: near-ties, and queries that see fewer keys than they may choose."""

from __future__ import annotations

from dataclasses import replace

import torch

from validation.case.preset import TINY
from validation.reference.keys import by_key, chosen_keys, keys_of, margin_of, visible

MODEL = replace(TINY.model, num_hidden_layers=1, index_topk=2, index_n_heads=1, index_head_dim=32)
SCORES = torch.tensor([[[3.0, 0, 0, 0], [1, 2, 0, 0], [5, 4, 1, 0], [2, 2, 8, 1]]], dtype=torch.float64)
"""Of four queries for four keys; 0 for those that a query does not see."""


def routing(scores: torch.Tensor) -> dict[str, torch.Tensor]:
    ahead = torch.ones(4, 4, dtype=torch.bool).triu(1)
    best = scores.masked_fill(ahead, float("-inf")).topk(2, dim=-1).indices
    chosen = by_key(best, 4) & ~ahead
    return chosen_keys({"layers.0.indexer.scores": scores, "layers.0.indexer.keys": chosen}, MODEL)


def test_keys_come_back_as_they_were_chosen() -> None:
    """A query that sees one key has it twice: no index is of a key that it does not see."""
    found = by_key(routing(SCORES)[keys_of(0)], 4)[0]
    assert found[:3].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert found[3].sum() == 2
    assert bool(found[3, 2])


def test_a_margin_is_half_of_what_lies_between_the_last_chosen_and_the_next() -> None:
    """Infinite if there is no next key; nothing in a tie."""
    margins = routing(SCORES)[margin_of(0)][0]
    assert margins.tolist() == [float("inf"), float("inf"), 1.5, 0.0]


def test_a_model_without_an_indexer_chooses_no_keys() -> None:
    assert chosen_keys({}, TINY.model) == {}


def test_attention_sees_chosen_keys_that_the_mask_allows() -> None:
    causal = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    seen = visible(causal, torch.tensor([[[0, 3], [0, 1], [1, 2], [1, 3]]]), 4)
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]]
    assert seen[0, 0].int().tolist() == expected
