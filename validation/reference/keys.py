"""The keys that indexers of sparse attention (DSA) choose, and by how much. No transformers: ranks read them, too."""

from __future__ import annotations

import torch

from validation.case.model import Model
from validation.reference.routing import Routing, gap


def visible(mask: torch.Tensor | None, indices: torch.Tensor, keys: int) -> torch.Tensor:
    """The mask of attention to the chosen keys alone, [batch, 1, sequence, keys], True where attention is allowed.

    `indices` are those of the keys that each query has chosen, [batch, sequence, k]; `mask` allows what may be seen at all.
    """
    chosen = by_key(indices, keys).unsqueeze(1)
    return chosen if mask is None else chosen & mask


def by_key(indices: torch.Tensor, keys: int) -> torch.Tensor:
    """Chosen keys as a map, [batch, sequence, keys]."""
    nothing = torch.zeros(*indices.shape[:-1], keys, dtype=torch.bool, device=indices.device)
    return nothing.scatter(-1, indices.long(), True)


def keys_of(layer: int, step: int = 1) -> str:
    """The name of the keys that a layer's indexer chooses in a step, counted from 1, among the stored routing."""
    return f"{layer}/keys" if step == 1 else f"step {step}/{layer}/keys"


def margin_of(layer: int) -> str:
    """The name of the margins of that choice in the first step."""
    return f"{layer}/keys margin"


def chosen_keys(forward: dict[str, torch.Tensor], model: Model) -> Routing:
    """What the indexers of recorded probes choose: the keys, [batch, sequence, k], and by how much, [batch, sequence].

    A query that sees fewer keys has its best one several times. The margin is the error of a score below which no other key
    would be chosen: two scores that are each off by e change places where they are 2 e apart.
    """
    found: Routing = {}
    for layer in range(model.num_hidden_layers) if model.sparse else ():
        scores, chosen = (forward[f"layers.{layer}.indexer.{kind}"] for kind in ("scores", "keys"))
        length = scores.shape[-1]
        ahead = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        count = min(model.index_topk or 0, length)
        best = scores.masked_fill(~chosen, float("-inf")).topk(count, dim=-1)
        found[keys_of(layer)] = torch.where(best.values == float("-inf"), best.indices[..., :1], best.indices).contiguous()
        margins = gap(scores.masked_fill(ahead, float("-inf")), count) / 2
        found[margin_of(layer)] = margins.nan_to_num(nan=float("inf"), posinf=float("inf")).contiguous()
    return found
