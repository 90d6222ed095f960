"""The reference's routing: what it chose in fp64, how close each choice was, and choosing the same in a lower precision.

Choices are discrete: in a lower precision a token whose scores lie closely together goes to another expert than in fp64,
and everything behind it is another computation. So every run in a lower precision, of either side, goes on with the choice
made in fp64, and what it would have chosen itself is compared by its margin (docs/design.md, section 4).
"""

from __future__ import annotations

import torch

from validation.case.families import GREEDY
from validation.case.model import Model
from validation.reference.sources import Weights

Routing = dict[str, torch.Tensor]
"""By layer as text: `3/experts`, the chosen experts [batch, sequence, k], and `3/margin` [batch, sequence]."""


def expert_bias(weights: Weights, layer: int, model: Model) -> torch.Tensor:
    """What a layer's router adds to its scores to choose, [experts]: zeros for one that adds nothing."""
    if not model.sigmoid:
        return torch.zeros(model.n_routed_experts)
    return weights.read(f"model.layers.{layer}.mlp.gate.e_score_correction_bias")


def experts_of(layer: int, step: int = 1) -> str:
    """The name of a layer's choices in a step, counted from 1, among the stored routing."""
    return f"{layer}/experts" if step == 1 else f"step {step}/{layer}/experts"


def margins(choice: torch.Tensor, model: Model) -> torch.Tensor:
    """For each token the error of a score below which no other expert would be chosen; [..., experts] -> [...].

    `choice` are the scores that choose, bias included. Two scores that are each off by e change places where they are 2 e
    apart, and two groups, whose scores are sums of two, where they are 4 e apart; DeepSeek-V2's groups, which have the score
    of their best expert, where they are 2 e apart.
    """
    allowed, groups = _allowed(choice, model)
    summed = 2 if model.sigmoid else 1
    return torch.minimum(gap(allowed, model.num_experts_per_tok) / 2, gap(groups, model.topk_group) / (2 * summed))


def chosen(choice: torch.Tensor, model: Model) -> torch.Tensor:
    """The experts that these scores choose, bias included, by the model's rule: a map of the same shape."""
    allowed, _ = _allowed(choice, model)
    experts = allowed.topk(model.num_experts_per_tok, dim=-1).indices
    return torch.zeros_like(choice, dtype=torch.bool).scatter(-1, experts, True)


def _allowed(choice: torch.Tensor, model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores of the experts in the best groups, minus infinity for the others, and each group's: its two best, summed.

    DeepSeek-V2 takes a group's best expert, or has no groups.
    """
    count, chosen = (1, 1) if model.topk_method == GREEDY else (model.n_group, model.topk_group)
    size = choice.shape[-1] // count
    by_group = choice.unflatten(-1, (count, size))
    groups = by_group.topk(min(2 if model.sigmoid else 1, size), dim=-1).values.sum(-1)
    best = torch.zeros_like(groups, dtype=torch.bool).scatter(-1, groups.topk(chosen, dim=-1).indices, True)
    return by_group.masked_fill(~best.unsqueeze(-1), float("-inf")).flatten(-2), groups


def gap(scores: torch.Tensor, chosen: int) -> torch.Tensor:
    """How far the last of the `chosen` highest lies above the next; infinite where there is no next."""
    if scores.shape[-1] <= chosen:
        return torch.full(scores.shape[:-1], float("inf"), dtype=scores.dtype, device=scores.device)
    top = scores.topk(chosen + 1, dim=-1).values
    return top[..., chosen - 1] - top[..., chosen]


def routing(forward: dict[str, torch.Tensor], biases: dict[int, torch.Tensor], model: Model) -> Routing:
    """The routing of recorded probes; `biases` are the expert biases by layer, zeros for routers without."""
    found: Routing = {}
    for layer, bias in biases.items():
        scores, choice = (forward[f"layers.{layer}.moe.router.{kind}"] for kind in ("scores", "experts"))
        experts = choice.nonzero()[:, -1].view(*choice.shape[:-1], model.num_experts_per_tok)
        found[f"{layer}/experts"] = experts.contiguous()
        found[f"{layer}/margin"] = margins(scores + bias.to(scores), model).contiguous()
    return found
