"""A router's choice beside its own scores and the reference's bias, in any phase of any case."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.case.test_preflight import case
from validation.candidate.recorder import Recorder
from validation.candidate.replay import BY_BIAS, BY_SCORES, Choice, Choices, off_own_scores
from validation.case.probes import probes
from validation.case.steps import left_bias
from validation.compare.piece import whole

TINY = case(precision="bf16")
EXPERTS = TINY.model.n_routed_experts
SCORES = torch.linspace(0.1, 0.9, EXPERTS).roll(3)[None].repeat(2, 1)
BIAS = torch.linspace(0.0, 0.3, EXPERTS)


def chosen(bias: torch.Tensor, moved: int = 0) -> Choice:
    """A router that adds this to its scores, and takes the experts so many places below the best for its second token."""
    choice, biased = Choice(None), SCORES + bias
    choice.seen(SCORES)
    group = biased.view(2, TINY.model.n_group, -1)
    best = group.topk(2, dim=-1).values.sum(-1).topk(TINY.model.topk_group, dim=-1).indices
    allowed = torch.full_like(group, float("-inf")).scatter(1, best[..., None].expand(-1, -1, group.shape[-1]), 0.0) + group
    k = TINY.model.num_experts_per_tok
    found = allowed.flatten(1).topk(k + moved, dim=-1)
    experts = torch.stack([found.indices[0, :k], found.indices[1, moved:]])
    choice.choose(experts, biased.gather(1, experts))
    return choice


def test_a_router_that_chooses_by_its_scores_and_the_bias_is_off_in_no_token() -> None:
    assert {name: found.tolist() for name, found in off_own_scores(TINY, chosen(BIAS), BIAS).items()} == {
        BY_SCORES: [0.0, 0.0],
        BY_BIAS: [0.0, 0.0],
    }


def test_other_experts_are_off_by_the_margin_of_that_token_alone() -> None:
    found = off_own_scores(TINY, chosen(BIAS, moved=1), BIAS)
    assert found[BY_SCORES][0] == 0
    assert found[BY_SCORES][1] > 0
    assert not found[BY_BIAS].any()


@pytest.mark.parametrize("off", [1e-5, 1e-2])
def test_another_bias_is_off_by_as_much_whatever_it_chooses(off: float) -> None:
    found = off_own_scores(TINY, chosen(BIAS + off), BIAS)
    torch.testing.assert_close(found[BY_BIAS].float(), torch.full((2,), off), rtol=0.05, atol=0.0)


def test_nothing_is_said_of_a_router_that_nobody_saw_choosing() -> None:
    """A check without these numbers fails (tests/compare/test_choice.py)."""
    assert off_own_scores(TINY, Choice(None), BIAS) == {}


def test_a_later_step_is_compared_with_the_bias_that_the_step_before_has_left() -> None:
    """Not the first, whose bias is the checkpoint's, nor an evaluation; a copy, because the step moves the bias in place."""
    recorder, router = Recorder(0), SimpleNamespace(expert_bias=BIAS.clone())
    place = SimpleNamespace(pieces=lambda probe, tensor, micro_batch: [(whole(tensor.shape), tensor)])
    choices = Choices(TINY, place, recorder, None, None)  # type: ignore[arg-type]
    probe = probes(TINY.model, 1, 2)["layers.1.moe.router.experts"]
    for step in (1, 0, 3):
        choices.step = step
        bias = choices.bias_before(router)
        router.expert_bias += 1.0
        choices.compare_with_bias(probe, chosen(BIAS + (2.0 if step == 3 else 0.5)), bias, torch.Size((2, 1, EXPERTS)), 0)
    assert set(recorder.pieces) == {f"{kind}{left_bias(2, 1)}" for kind in (BY_SCORES, BY_BIAS)}
    assert not any(piece.difference.differing for (piece,) in recorder.pieces.values())
    assert choices.bias_before(SimpleNamespace(expert_bias=None)) is None
