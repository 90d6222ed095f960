"""Bytes of tensors are counted from the operation that makes them to their end."""

from __future__ import annotations

import torch

from benchmarks.live import Live


def test_a_storage_counts_once_while_it_is_there() -> None:
    given = torch.ones(100)
    with Live([given]) as live:
        given.add_(1)  # is not new
        one = torch.zeros(1000, requires_grad=True)
        view = one[:10]
        assert live.now == live.most == 4000
        kept = (one * one).sum()
        assert (live.now, live.most) == (4004, 8004)
        kept.backward()
        assert live.most == 16008  # the gradient, two products with it, and their sum
        del one, view, kept
        assert live.now == 0


def test_what_autograd_keeps_is_there() -> None:
    with Live() as live:
        one = torch.zeros(1000, requires_grad=True)
        result = one.exp().sum()
        assert live.now == 8004
        del result
        assert live.now == 4000
