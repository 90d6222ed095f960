"""A tensor with another's numbers."""

from __future__ import annotations

import torch

from validation.compare.substitute import substituted


def test_what_follows_sees_the_value_and_what_precedes_gets_the_gradient() -> None:
    """d/dx of 3 (2 x), computed at x = 10 in place of 2 x: the factor behind is applied to 10, the gradient is 6."""
    x = torch.tensor(1.0, requires_grad=True)
    after = substituted(2 * x, torch.tensor(10.0))
    result = 3 * after
    result.backward()
    assert result.item() == 30
    assert x.grad is not None
    assert x.grad.item() == 6


def test_it_is_a_tensor_of_its_own() -> None:
    """No view: megatron-core's pipeline frees the memory of what it has sent, which no view allows."""
    found = substituted(torch.ones(3, requires_grad=True) * 2, torch.zeros(3))
    assert found._base is None
    assert found.requires_grad


def test_without_a_graph_only_the_value_remains() -> None:
    """As in a forward pass that activation recompute will run again."""
    with torch.no_grad():
        found = substituted(torch.ones(3), torch.zeros(3))
    assert not found.requires_grad
    assert found.tolist() == [0, 0, 0]
