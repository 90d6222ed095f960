"""What an optimizer's formula makes of its own numbers: sound steps pass, and each that is not one is seen in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate import arithmetic
from validation.candidate.arithmetic import Rates
from validation.case.optimizers import BUFFER, FIRST, SECOND, SGD, Rule
from validation.case.steps import MASTER
from validation.case.training import Adam

ADAM = Adam(1e-3, 0.9, 0.95, 1e-8, 0.01, 1.0, 0.0)
SHARP = replace(ADAM, beta2=0.999)
Made = Callable[[list[torch.nn.Parameter], Adam], torch.optim.Optimizer]


def adamw(of: list[torch.nn.Parameter], adam: Adam) -> torch.optim.Optimizer:
    betas, decay = (adam.beta1, adam.beta2), adam.weight_decay
    return torch.optim.AdamW(of, lr=adam.learning_rate, betas=betas, eps=adam.epsilon, weight_decay=decay)


def adam_of_old(of: list[torch.nn.Parameter], adam: Adam) -> torch.optim.Optimizer:
    return torch.optim.Adam(of, lr=adam.learning_rate, betas=(adam.beta1, adam.beta2), eps=adam.epsilon, weight_decay=0.01)


def sgd(momentum: float) -> Made:
    return lambda of, adam: torch.optim.SGD(of, lr=adam.learning_rate, momentum=momentum, weight_decay=adam.weight_decay)


def numbers(size: int = 4096) -> torch.Tensor:
    """Of every magnitude that float32 has, of both signs, and zeros."""
    random = torch.Generator().manual_seed(5)
    found = torch.randn(size, generator=random) * torch.logspace(-30, 4, size)[torch.randperm(size, generator=random)]
    found[::97] = 0
    return found


def judged(
    made: Made, rule: Rule, adam: Adam = ADAM, steps: int = 3, change: Callable[[Any, Any], None] = lambda optimizer, own: None
) -> Mapping[str, str]:
    """What is said of the last step; `change` spoils the optimizer before it."""
    own = torch.nn.Parameter(torch.randn(4096, generator=torch.Generator().manual_seed(3)) * 0.02)
    optimizer = made([own], adam)
    for step in range(1, steps + 1):
        own.grad = numbers() if step % 2 else torch.randn(4096, generator=torch.Generator().manual_seed(step))
        was = arithmetic.before(own, optimizer.state[own], rule)
        if step == steps:
            change(optimizer, own)
        optimizer.step()
        rates = Rates(step, adam.learning_rate, adam.weight_decay)
        found = {kind: said for kind, _, said in arithmetic.wrong(was, own, optimizer.state[own], rule, adam, rates)}
        assert step == steps or not found, (step, found)
    return found


@pytest.mark.parametrize("adam", [ADAM, SHARP, replace(ADAM, epsilon=0.0), replace(ADAM, beta1=0.0, weight_decay=0.0)])
@pytest.mark.parametrize(("made", "rule"), [(adamw, Rule()), (adam_of_old, Rule(decoupled=False))])
def test_sound_steps_of_adam_pass(made: Made, rule: Rule, adam: Adam) -> None:
    kept = adam if rule.decoupled else replace(adam, weight_decay=0.01)
    assert not judged(made, rule, kept)
    assert not judged(made, rule, kept, steps=1)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_sound_steps_of_sgd_pass(momentum: float) -> None:
    assert not judged(sgd(momentum), Rule(SGD, momentum=momentum))


def rate(optimizer: Any, own: Any) -> None:
    optimizer.param_groups[0]["lr"] *= 1.25


def little(optimizer: Any, own: Any) -> None:
    optimizer.param_groups[0]["lr"] *= 1.0005


def decay(optimizer: Any, own: Any) -> None:
    optimizer.param_groups[0]["weight_decay"] = 0.0


def epsilon(optimizer: Any, own: Any) -> None:
    optimizer.param_groups[0]["eps"] = 1e-6


def count(optimizer: Any, own: Any) -> None:
    optimizer.state[own]["step"].fill_(0.0)


def rounded(optimizer: Any, own: Any) -> None:
    moment = optimizer.state[own][FIRST]
    moment.copy_(moment.to(torch.bfloat16))


def kept(optimizer: Any, own: Any) -> None:
    optimizer.param_groups[0]["betas"] = (0.9, 0.951)


def one(optimizer: Any, own: Any) -> None:
    """One element in 4096, by a few roundings."""
    own.data[7] *= 1 + 2.0**-20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rate, {MASTER: "; it moves them 1.25 times as far"}),
        (little, {MASTER: "there before the step"}),
        (decay, {MASTER: "; it is so without weight decay"}),
        (epsilon, {MASTER: "there before the step"}),
        (count, {MASTER: "; it is so with the bias correction of step 1"}),
        (rounded, {FIRST: "not what AdamW makes of the gradient and of what was there before the step"}),
        (kept, {SECOND: "not what AdamW makes of the gradient and of what was there before the step"}),
        (one, {MASTER: "not what AdamW makes of the moments and of what was there before the step"}),
    ],
)
def test_what_is_no_step_of_adamw_is_seen(change: Callable[[Any, Any], None], said: Mapping[str, str]) -> None:
    found = judged(adamw, Rule(), steps=2, change=change)
    assert said.keys() <= found.keys()
    assert all(found[kind].endswith(words) for kind, words in said.items()), found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_is_no_step_of_sgd_is_seen(momentum: float) -> None:
    rule = Rule(SGD, momentum=momentum)
    assert judged(sgd(momentum), rule, change=rate)[MASTER].endswith("; it moves them 1.25 times as far")
    assert set(judged(sgd(momentum), rule, change=decay)) == ({BUFFER} if momentum else {MASTER})


def test_a_decay_that_should_not_be_is_named() -> None:
    own = torch.nn.Parameter(torch.ones(64))
    optimizer = adamw([own], ADAM)
    own.grad = torch.linspace(-1, 1, 64)
    was = arithmetic.before(own, {}, Rule())
    optimizer.step()
    ((kind, off, said),) = arithmetic.wrong(was, own, optimizer.state[own], Rule(), ADAM, Rates(1, 1e-3, 0.0))
    assert kind == MASTER
    assert off.all()
    assert "it is so with a weight decay of 0.01" in said


def test_what_is_no_float32_or_has_no_gradient_is_not_judged() -> None:
    own = torch.nn.Parameter(torch.ones(8))
    was = arithmetic.before(own, {}, Rule())
    halves = {kind: torch.ones(8, dtype=torch.bfloat16) for kind in (FIRST, SECOND)}
    assert not list(arithmetic.wrong(was, own, halves, Rule(), ADAM, Rates(1, 1e-3, 0.0)))
    own.grad = torch.ones(8)
    assert not list(arithmetic.wrong(was, own, halves, Rule(), ADAM, Rates(1, 1e-3, 0.0)))
    assert not list(arithmetic.wrong(was, own, {}, Rule(), ADAM, Rates(1, 1e-3, 0.0)))
    optimizer = torch.optim.AdamW([own])
    assert arithmetic.known(optimizer, own)
    assert not arithmetic.known(optimizer, own.double())
    assert not arithmetic.known(object(), own)
    assert not arithmetic.known(optimizer, own[:0])


def test_what_changes_between_steps_is_seen_to_the_bit() -> None:
    had = arithmetic.before(torch.ones(4), {FIRST: torch.tensor([1.0, 2.0, torch.nan, 4.0]), SECOND: torch.ones(4)}, Rule())
    assert not list(arithmetic.changed(had, had))
    moment = torch.tensor([1.0, 2.0, torch.nan, 4.0 + 2**-21])
    has = arithmetic.before(torch.tensor([1.0, 0.0, 1.0, 1.0]), {FIRST: moment, SECOND: torch.ones(4)}, Rule())
    assert {kind: off.tolist() for kind, off in arithmetic.changed(had, has)} == {
        MASTER: [False, True, False, False],
        FIRST: [False, False, False, True],
    }
