"""Margins of the reference's routing: how far scores may be off before another expert is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from validation.case.model import Model
from validation.case.preset import TINY
from validation.reference.routing import chosen as routed
from validation.reference.routing import margins, routing

MODEL = TINY.model
UNGROUPED = replace(MODEL, n_group=1, topk_group=1)


def chosen(choice: torch.Tensor, model: Model) -> torch.Tensor:
    """The experts that DeepSeek-V3 chooses, as a map: groups by the sum of their two best, experts within them."""
    groups = choice.view(len(choice), model.n_group, -1)
    best = groups.topk(2, dim=-1).values.sum(-1).topk(model.topk_group, dim=-1).indices
    index = best[..., None].expand(-1, -1, groups.shape[-1])
    kept = torch.full_like(groups, float("-inf")).scatter(1, index, groups.gather(1, index))
    experts = kept.flatten(1).topk(model.num_experts_per_tok, dim=-1).indices
    return torch.zeros_like(choice, dtype=torch.bool).scatter(1, experts, True)


@pytest.fixture
def scores() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2000, MODEL.n_routed_experts, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("model", [MODEL, UNGROUPED], ids=["groups", "no groups"])
def test_scores_that_are_off_by_less_choose_the_same(scores: torch.Tensor, model: Model) -> None:
    """Whatever the signs of the errors are, in 2000 tokens and twenty draws of signs."""
    margin, generator = margins(scores, model), torch.Generator().manual_seed(1)
    for _ in range(20):
        signs = torch.randint(0, 2, scores.shape, generator=generator) * 2.0 - 1
        moved = scores + 0.999 * margin[:, None] * signs
        assert torch.equal(chosen(moved, model), chosen(scores, model))


@pytest.mark.parametrize("model", [MODEL, UNGROUPED], ids=["groups", "no groups"])
def test_the_margin_is_as_large_as_it_can_be(scores: torch.Tensor, model: Model) -> None:
    """Errors a little above it, against what was chosen, make every token choose otherwise."""
    moved_by = 1.001 * margins(scores, model)[:, None]
    before = chosen(scores, model)
    size = model.n_routed_experts // model.n_group
    groups = before.view(len(scores), model.n_group, size).any(-1).repeat_interleave(size, 1)
    against_experts = scores + torch.where(before, -moved_by, moved_by)
    against_groups = scores + torch.where(groups, -moved_by, moved_by)
    flipped = [(chosen(moved, model) != before).any(1) for moved in (against_experts, against_groups)]
    assert torch.all(flipped[0] | flipped[1])


def test_a_tie_has_no_margin() -> None:
    """The last that is chosen and the first that is not are the same."""
    assert float(margins(torch.ones(1, MODEL.n_routed_experts, dtype=torch.float64), MODEL)) == 0


def test_routing_is_what_was_recorded() -> None:
    """The experts of every token, in the order of their numbers, and the margin of the biased scores."""
    scores = torch.rand(2, 3, MODEL.n_routed_experts, dtype=torch.float64)
    bias = torch.linspace(-0.1, 0.1, MODEL.n_routed_experts)
    choice = scores + bias.double()
    chose = chosen(choice.flatten(0, 1), MODEL).view(choice.shape)
    forward = {"layers.1.moe.router.scores": scores, "layers.1.moe.router.experts": chose}
    found = routing(forward, {1: bias}, MODEL)
    assert found["1/experts"].shape == (2, 3, MODEL.num_experts_per_tok)
    assert torch.equal(torch.zeros_like(chose).scatter(-1, found["1/experts"], True), chose)
    assert torch.equal(found["1/margin"], margins(choice, MODEL))


@pytest.mark.parametrize("model", [MODEL, UNGROUPED], ids=["groups", "no groups"])
def test_what_scores_choose_is_what_deepseek_chooses(scores: torch.Tensor, model: Model) -> None:
    """Of any leading dimensions."""
    choice = scores - 0.5
    assert torch.equal(routed(choice.view(4, 500, -1), model).flatten(0, 1), chosen(choice, model))
