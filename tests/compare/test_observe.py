"""A router seen while it runs: its own scores and its own choice go through, once each, and everything else passes by."""

from __future__ import annotations

import torch

from validation.compare.observe import Router

EXPERTS = 4


class Seen:
    """What a router handed over, and what it got back."""

    def __init__(self, choose: torch.Tensor | None = None) -> None:
        self.scores: list[torch.Tensor] = []
        self.choices: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._choose = choose

    def observed(self, scores: torch.Tensor) -> torch.Tensor:
        """Twice the scores."""
        self.scores.append(scores)
        return 2 * scores

    def choose(self, chosen: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        """The choice that was made, or another."""
        self.choices.append((chosen, by))
        return chosen if self._choose is None else self._choose


def logits() -> torch.Tensor:
    return torch.tensor([[0.0, 1.0, 2.0, 3.0], [3.0, 2.0, 1.0, 0.0]])


def test_the_first_scores_go_through_and_the_next_do_not() -> None:
    """A balancing loss takes its own of the same logits later; both spellings of a sigmoid are one."""
    for spelled in (torch.sigmoid, torch.Tensor.sigmoid):
        seen = Seen()
        with Router(EXPERTS, seen.observed, seen.choose):
            first, second = spelled(logits()), spelled(logits())
        assert len(seen.scores) == 1
        assert torch.equal(seen.scores[0], logits().sigmoid())
        assert torch.equal(first, 2 * logits().sigmoid())
        assert torch.equal(second, logits().sigmoid())


def test_the_first_choice_over_all_experts_goes_through() -> None:
    """Those over groups have other shapes; a later one of the same shape is somebody else's."""
    for spelled in (torch.topk, torch.Tensor.topk):
        seen = Seen()
        with Router(EXPERTS, seen.observed, seen.choose):
            spelled(logits().view(2, 2, 2), k=2, dim=-1)
            spelled(logits()[:, :2], 1)
            spelled(logits().view(2, 1, 4), 1)
            values, indices = spelled(logits(), 2, dim=1)
            spelled(logits(), 2)
        ((chosen, by),) = seen.choices
        assert chosen.tolist() == [[3, 2], [0, 1]]
        assert by.tolist() == [[3.0, 2.0], [3.0, 2.0]]
        assert indices is chosen
        assert values is by


def test_experts_are_told_by_the_last_dimension() -> None:
    """Four tokens of two groups are no choice of four experts."""
    seen = Seen()
    with Router(EXPERTS, seen.observed, seen.choose):
        torch.topk(torch.ones(4, 2), 1)
    assert seen.choices == []


def test_another_choice_takes_the_place_of_the_one_that_was_made() -> None:
    """With the values that belong to it."""
    other = torch.tensor([[0, 3], [1, 2]])
    seen = Seen(other)
    with Router(EXPERTS, seen.observed, seen.choose):
        found = torch.topk(logits(), 2)
        after = torch.topk(logits(), 2)
    assert found.indices.tolist() == other.tolist()
    assert found.values.tolist() == [[0.0, 3.0], [2.0, 1.0]]
    assert after.indices.tolist() == [[3, 2], [0, 1]]


def test_what_is_neither_passes_by_with_its_arguments() -> None:
    seen = Seen()
    with Router(EXPERTS, seen.observed, seen.choose):
        assert torch.add(logits(), logits(), alpha=2).tolist() == (3 * logits()).tolist()
        assert torch.zeros(2, dtype=torch.float64).dtype is torch.float64
        assert torch.sum(input=logits(), dim=0).tolist() == [3.0, 3.0, 3.0, 3.0]
    assert seen.scores == []
    assert seen.choices == []
