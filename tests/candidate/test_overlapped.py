"""Schedules of parts: whose micro-batch a tensor is of, while another's backward pass runs between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tests.core  # noqa: F401 - before megatron-core
from validation.candidate import config, overlapped
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.case.training import Training

SETTINGS = ((f"model.{overlapped.FIELD}", True),)


def case(precision: str) -> Case:
    layout = Layout.parse("ep2")
    return Case("tiny", TINY.model, layout, precision, "local", "gloo", 1, 4, 2, 48, training=Training(settings=SETTINGS))


class Part:
    """What computes: the layer's parts share the state of the plan."""

    def __init__(self, computed: Any) -> None:
        self.chunk_state, self.computed = object(), computed

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """As megatron-core calls it."""
        found: torch.Tensor = self.computed(given)
        return found


class Chunk:
    """A model of one layer of experts, as far as a plan of it goes."""

    def __init__(self) -> None:
        self.mlp = SimpleNamespace(postprocess=lambda output, shared: output + shared)
        self.mlp_bda = lambda *how: lambda output, residual: output + residual

    def _postprocess(self, hidden: torch.Tensor) -> torch.Tensor:
        return 2 * hidden

    def layer(self, hidden: torch.Tensor) -> torch.Tensor:
        """The output of the layer."""
        return self.mlp_bda(True, False)(self.mlp.postprocess(hidden, 1), hidden)

    def build_schedule_plan(self) -> Any:
        """Four parts."""
        layer = SimpleNamespace(layer=self, attn=Part(lambda hidden: hidden), combine=Part(self.layer))
        first, last = Part(lambda hidden: hidden), Part(lambda hidden: self._postprocess(hidden))
        return SimpleNamespace(pre_process=first, post_process=last, num_layers=lambda: 1, get_layer=lambda index: layer)


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def chunk(seen: list[Any]) -> Chunk:
    made, count = Chunk(), iter(range(9))
    plans = overlapped.Plans(made, lambda: next(count), seen.append)

    def record(name: str, tensor: torch.Tensor) -> torch.Tensor:
        seen.append((name, tensor.item()))
        return tensor

    plans.watch_layer(made, "output", "experts", record)
    plans.watch_losses(made, lambda losses: record("losses", losses))
    return made


def test_tensors_are_of_the_micro_batch_whose_part_computes(chunk: Chunk, seen: list[Any]) -> None:
    """The second plan is made before the first has ended; between parts there is none."""
    one, other = chunk.build_schedule_plan(), chunk.build_schedule_plan()
    hidden = torch.tensor(3)
    other.pre_process.forward(hidden)
    other.get_layer(0).combine.forward(hidden)
    one.post_process.forward(hidden)
    assert seen == [1, None, 1, ("experts", 4), ("output", 7), None, 0, ("losses", 6), None]


def test_outside_of_a_plan_nothing_is_recorded_twice(chunk: Chunk, seen: list[Any]) -> None:
    """An evaluation calls the model itself, whose own hooks see it."""
    assert chunk._postprocess(chunk.layer(torch.tensor(3))).item() == 14
    assert seen == []


def test_a_part_that_has_computed_is_as_it_was(chunk: Chunk) -> None:
    """It would keep itself alive, with all that it holds."""
    part = chunk.build_schedule_plan().pre_process
    assert "forward" in vars(part)
    part.forward(torch.tensor(3))
    assert "forward" not in vars(part)


def test_a_part_that_fails_ends(chunk: Chunk, seen: list[Any]) -> None:
    plan = chunk.build_schedule_plan()
    with pytest.raises(TypeError):
        plan.get_layer(0).combine.forward(None)
    assert seen == [0, None]


def test_in_fp64_upstream_checks_all_but_the_precision() -> None:
    """It knows half precision alone. In fp32, which it knows, its word counts."""
    made = config.transformer_config(case("fp64"))
    assert (made.overlap_moe_expert_parallel_comm, made.bf16, made.params_dtype) == (True, False, torch.float64)
    assert config.transformer_config(case("bf16")).bf16
    with pytest.raises(AssertionError, match="only supported with bf16 or fp16"):
        config.transformer_config(case("fp32"))
