"""Transformer Engine's fused router, by a stand-in: what comes out of it is compared, and another choice may be put in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.transformer.moe import moe_utils

import tests.core  # noqa: F401 - before megatron-core
from validation.candidate.fused_router import FUSED, seen_fused
from validation.candidate.replay import Choice
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.probes import observed
from validation.case.training import Training
from validation.checks.marks import members

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [-1.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
GIVEN = {"topk": 2, "score_function": "sigmoid", "scaling_factor": 2.5, "expert_bias": torch.zeros(4, dtype=torch.float64)}
OWN = [[True, True, False, False], [False, False, True, True]]
CASE = Case("tiny", TINY.model, Layout(), "bf16", "te", "nccl", 1, 2, 1, 8, training=Training())


def weights_of(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Sigmoids of the chosen, normalised and scaled, zero elsewhere."""
    scores = torch.where(chosen, 1 / (1 + torch.exp(-logits)), 0.0)
    return 2.5 * scores / scores.sum(-1, keepdim=True)


def kernel(experts: int = 2) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """What Transformer Engine's function does; with another number of experts a broken one."""

    def fused(logits: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        assert given == {**GIVEN, "use_pre_softmax": False, "num_groups": None, "group_topk": None}
        chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(experts).indices, True)
        return weights_of(logits, chosen), chosen

    return fused


def routed(choice: Choice, logits: torch.Tensor = LOGITS) -> tuple[torch.Tensor, torch.Tensor]:
    with seen_fused(choice.choose):
        found: tuple[torch.Tensor, torch.Tensor] = moe_utils.topk_routing_with_score_function(logits, fused=True, **GIVEN)
    return found


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel in megatron-core's hands."""
    monkeypatch.setattr(moe_utils, "HAVE_TE", True)
    monkeypatch.setattr(moe_utils, FUSED, kernel(), raising=False)


@pytest.mark.parametrize("replayed", [None, torch.tensor([[1, 0], [3, 2]]), torch.tensor([[-1, -1], [2, 3]])])
def test_where_the_choices_agree_the_kernel_s_own_tensors_go_on(replayed: torch.Tensor | None) -> None:
    """The order of a token's experts means nothing; -1 says that the reference has no choice."""
    choice, before = Choice(replayed), vars(moe_utils)[FUSED]
    weights, chosen = routed(choice)
    assert chosen.tolist() == OWN
    assert torch.equal(weights, kernel()(LOGITS, **GIVEN, use_pre_softmax=False, num_groups=None, group_topk=None)[0])
    assert choice.compared(chosen).tolist() == OWN
    assert vars(moe_utils)[FUSED] is before


def test_a_token_that_is_to_have_other_experts_gets_them_and_its_own_choice_is_compared() -> None:
    choice = Choice(torch.tensor([[0, 2], [3, 2]]))
    logits = LOGITS.clone().requires_grad_()
    weights, chosen = routed(choice, logits)
    wanted = [[True, False, True, False], OWN[1]]
    assert chosen.tolist() == wanted
    torch.testing.assert_close(weights, weights_of(LOGITS, torch.tensor(wanted)))
    assert choice.compared(chosen).tolist() == OWN
    (gradient,) = torch.autograd.grad(weights[:, 2].sum(), logits)
    assert (gradient != 0).tolist() == wanted


def test_what_a_broken_kernel_makes_is_compared_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One expert a token in place of two: nothing of the reference's hides it."""
    monkeypatch.setattr(moe_utils, FUSED, kernel(experts=1))
    choice = Choice(torch.tensor([[0, 1], [3, 2]]))
    _, chosen = routed(choice)
    assert choice.compared(chosen).tolist() == [[True, False, False, False], [False, False, False, True]]


def test_without_transformer_engine_nothing_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe_utils, FUSED, None)
    with seen_fused(Choice(None).choose):
        assert vars(moe_utils)[FUSED] is None


@pytest.mark.parametrize("fused", [False, True])
def test_scores_are_asked_for_if_they_are_tensors(fused: bool) -> None:
    settings = (("model.moe_router_fusion", fused),)
    case = replace(CASE, training=Training(settings=settings))
    kinds = {probe.kind for probe in observed(case).values()}
    assert ("moe.router.scores" in kinds) is not fused
    assert {"moe.router.logits", "moe.router.experts", "moe.router.weights"} <= kinds
    assert bool(members("scored_layers", case)) is not fused
