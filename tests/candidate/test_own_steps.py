"""Which second moments a rank has held against the optimizer's formula, step after step from the first on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate.optimizer import Share
from validation.candidate.own_steps import OwnSteps
from validation.candidate.recorder import Recorder
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.optimizers import FIRST, SECOND
from validation.case.parameters import parameters
from validation.case.preset import TINY
from validation.case.schedule import Schedule
from validation.case.steps import MASTER, STEPS
from validation.case.training import Training
from validation.reference import schedule as formulas

NAMES = ("model.norm.weight", "lm_head.weight")
CASE = Case("tiny", TINY.model, Layout(), "bf16", "local", "gloo", 1, 2, 1, 8, training=Training(steps=3))
Change = Callable[[torch.optim.AdamW, list[torch.nn.Parameter]], None]


@dataclass
class Stepped:
    """A rank's optimizer of two small parameters; it steps the first alone if `owned` is 1."""

    case: Case
    owned: int = 2

    def __post_init__(self) -> None:
        adam = self.case.training.adam
        self.recorder = Recorder(0)
        self.own = OwnSteps(self.case)
        self.masters = [torch.nn.Parameter(torch.linspace(0.1, 1.0, 8)) for _ in NAMES]
        known = parameters(self.case.model)
        whole = SimpleNamespace(of=lambda tensor: tensor)
        self.held: Any = [
            (master.detach().bfloat16(), [SimpleNamespace(parameter=known[name], **vars(whole))])
            for name, master in zip(NAMES, self.masters, strict=True)
        ]
        groups = [{"params": [master], "weight_decay": 0.0} for master in self.masters]
        self.optimizer = torch.optim.AdamW(groups, betas=(adam.beta1, adam.beta2), eps=adam.epsilon)

    def share(self, tensor: torch.Tensor) -> Any:
        """As validation.candidate.optimizer.Optimizer has it."""
        index = next(number for number, (one, _) in enumerate(self.held) if one is tensor)
        if index >= self.owned:
            return None
        master = self.masters[index]
        place = SimpleNamespace(optimizer=SimpleNamespace(optimizer=self.optimizer), own=master)
        return Share(cast("Any", place), slice(0, 8))

    def step(self, number: int, before: Change | None = None, behind: Change | None = None) -> None:
        """One step by the schedule's rates; one change comes before it, with the gradients there, and the other behind it."""
        for index, master in enumerate(self.masters):
            group = self.optimizer.param_groups[index]
            parameter = self.held[index][1][0].parameter
            group["lr"], group["weight_decay"] = formulas.rates(Schedule.of(self.case.training), parameter, number - 1)
            master.grad = torch.linspace(-1.0, 2.0, 8) * number
        if before is not None:
            before(self.optimizer, self.masters)
        self.own.begin(number, cast("Any", self), self.held, self.recorder)
        self.optimizer.step()
        if behind is not None:
            behind(self.optimizer, self.masters)
        self.own.end()

    def judged(self) -> Mapping[str, bool]:
        """What the rank says, by step and the parameter's name."""
        said = self.recorder.as_dict()["by_formula"]
        assert all(name.startswith(STEPS) and f"/{SECOND}/" in name for name in said)
        return {name.removeprefix(STEPS).replace(f"/{SECOND}/", " "): judged for name, judged in said.items()}


def of(step: int, *judged: bool) -> dict[str, bool]:
    return {f"{step} {name}": by_formula for name, by_formula in zip(NAMES, judged, strict=False)}


def test_every_step_of_what_this_rank_steps_is_judged() -> None:
    """Of what others step it says nothing: they do."""
    for owned in (2, 1):
        rank = Stepped(CASE, owned)
        for number in (1, 2, 3):
            rank.step(number)
        assert rank.judged() == of(1, *[True] * owned) | of(2, *[True] * owned) | of(3, *[True] * owned)
        assert not rank.recorder.problems


def test_in_fp64_nobody_asks_the_formula() -> None:
    rank = Stepped(replace(CASE, precision="fp64"))
    rank.step(1)
    assert rank.judged() == {}


def test_a_wrong_step_is_judged_and_said() -> None:
    """That a second moment was judged does not make it right."""
    rank = Stepped(CASE)
    rank.step(1)
    rank.optimizer.param_groups[0]["betas"] = (0.9, 0.5)
    rank.step(2)
    assert rank.judged() == of(1, True, True) | of(2, True, True)
    assert f"{STEPS}2/{SECOND}/{NAMES[0]}" in rank.recorder.problems
    assert not any(NAMES[1] in name for name in rank.recorder.problems)


def halved(optimizer: torch.optim.AdamW, masters: list[torch.nn.Parameter]) -> None:
    state = optimizer.state[masters[0]]
    state[SECOND] = state[SECOND].half()


def whole(optimizer: torch.optim.AdamW, masters: list[torch.nn.Parameter]) -> None:
    state = optimizer.state[masters[0]]
    state[SECOND] = state[SECOND].float()


def no_gradient(optimizer: torch.optim.AdamW, masters: list[torch.nn.Parameter]) -> None:
    masters[0].grad = None


@pytest.mark.parametrize(("before", "behind"), [(None, halved), (no_gradient, None)])
def test_from_a_step_that_is_not_judged_on_none_is(before: Change | None, behind: Change | None) -> None:
    """The moments of later ones are made of those that nobody has judged."""
    rank = Stepped(CASE)
    rank.step(1)
    rank.step(2, before, behind)
    rank.step(3, whole)
    assert rank.judged() == of(1, True, True) | of(2, False, True) | of(3, False, True)


def test_moments_that_are_there_before_the_first_step_have_no_reason() -> None:
    def filled(optimizer: torch.optim.AdamW, masters: list[torch.nn.Parameter]) -> None:
        for master in masters:
            optimizer.state[master] = {"step": torch.tensor(0.0), FIRST: torch.zeros(8), SECOND: torch.zeros(8)}
        optimizer.state[masters[1]][SECOND][3] = 1e-6

    rank = Stepped(CASE)
    rank.step(1, filled)
    assert rank.judged() == of(1, True, False)


def test_a_resume_in_another_layout_ends_it() -> None:
    """What a checkpoint should have brought back, no formula knows; in the same layout it is there to the bit, or said."""
    rank = Stepped(CASE)
    rank.step(1)
    rank.own.cut_as(CASE.layout)
    rank.step(2)
    rank.own.cut_as(Layout.parse("tp2"))
    rank.step(3)
    assert rank.judged() == of(1, True, True) | of(2, True, True) | of(3, False, False)


def test_a_resume_in_another_layout_and_back_ends_it_too() -> None:
    rank = Stepped(CASE)
    rank.step(1)
    rank.own.cut_as(Layout.parse("tp2"))
    rank.own.cut_as(CASE.layout)
    rank.step(2)
    assert rank.judged() == of(1, True, True) | of(2, False, False)


def test_a_step_that_is_not_taken_is_not_judged() -> None:
    """Nor is a later one: what lies between, nobody has seen."""
    rank = Stepped(CASE)
    rank.own.begin(1, cast("Any", rank), rank.held, rank.recorder)
    rank.step(2)
    assert rank.judged() == of(1, False, False) | of(2, False, False)


@pytest.mark.parametrize("touched", [FIRST, SECOND, MASTER, ""])
def test_what_the_last_step_leaves_stays_there(touched: str) -> None:
    """As what the others leave does: that is what the next one sees."""
    rank = Stepped(CASE)
    rank.step(1)
    rank.step(2)
    master = rank.masters[1]
    if touched:
        with torch.no_grad():
            (master if touched == MASTER else rank.optimizer.state[master][touched])[3] *= 1.0 + 2.0**-20
    rank.own.close()
    name = f"{STEPS}2/{touched}/{NAMES[1]}"
    assert rank.recorder.problems == ({name: "1 element is not what step 2 has left"} if touched else {})


def test_of_several_parts_all_must_be_judged() -> None:
    """A tensor may hold parts of two parameters, and two tensors parts of one."""
    recorder = Recorder(0)
    for part, judged in ((0, True), (1, False), (1, True), (2, False)):
        recorder.by_formula("a", part, judged=judged)
        recorder.by_formula("b", part % 2, judged=True)
    assert recorder.as_dict()["by_formula"] == {"a": False, "b": True}


def test_an_optimizer_of_another_kind_is_not_judged() -> None:
    class Mine(torch.optim.AdamW):
        pass

    rank = Stepped(CASE)
    rank.optimizer = Mine(rank.optimizer.param_groups)
    rank.step(1)
    assert rank.judged() == of(1, False, False)


def test_sgd_has_no_second_moment() -> None:
    training = Training(steps=1, settings=(("optimizer.optimizer", "sgd"), ("optimizer.sgd_momentum", 0.5)))
    rank = Stepped(replace(CASE, training=training))
    rank.optimizer = cast("Any", torch.optim.SGD([{"params": [master]} for master in rank.masters], momentum=0.5))
    rank.step(1)
    assert rank.judged() == {}
    assert not rank.recorder.problems
