"""Gradients that are added up sequence by sequence are those of all sequences together, rounded as bf16 rounds each sum."""

from __future__ import annotations

from dataclasses import replace

import torch

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training
from validation.reference import store, sums

CASE = Case("tiny", TINY.model, Layout(), "bf16", "local", "gloo", 1, 4, 2, 16, training=Training(steps=1))
OFF = replace(CASE, training=CASE.training.with_settings({"ddp.grad_reduce_in_fp32": False}))
ROWS = 5


def gradient(dtype: torch.dtype, *, apart: bool) -> torch.Tensor:
    """Of a weight whose every sequence has a loss of its own, beside one that all have in common."""
    weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 8, dtype=dtype))
    given = torch.randn(ROWS, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    losses = (given * weight).sum(-1)
    if not apart:
        torch.autograd.backward(losses.sum() + weight.square().sum())
        return weight.grad  # type: ignore[return-value]
    with sums.one_by_one(ROWS):
        common = sums.shared(weight.square().sum())
        sums.backward(sums.of_sequences(losses).sum() + common)
    return weight.grad  # type: ignore[return-value]


def test_the_sum_of_the_sequences_is_the_whole() -> None:
    torch.testing.assert_close(gradient(torch.float64, apart=True), gradient(torch.float64, apart=False), rtol=1e-14, atol=0)


def test_each_sum_is_rounded() -> None:
    """Five sums in bf16 are further off than one number that is held in it."""
    truth = gradient(torch.float64, apart=False)
    apart, together = ((gradient(torch.bfloat16, apart=one).double() - truth).norm() for one in (True, False))
    assert apart > together


def test_another_way_to_add_up_is_another_reference() -> None:
    """In bf16; in fp64 and fp32 the buffers have the model's precision anyway."""
    assert OFF.rounds_sums
    assert not CASE.rounds_sums
    assert store.key(OFF) != store.key(CASE)
    assert store.key(replace(OFF, precision="fp64")) == store.key(replace(CASE, precision="fp64"))
    assert 0.5 < sums.factor(100) <= 1
