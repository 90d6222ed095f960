"""What a plan computes of a layer is seen where megatron-core's plan leaves it; a chunk that is called is seen by its hooks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import core  # noqa: F401 - before megatron-core
from validation.candidate import overlapped
from validation.candidate.overlapped import Planned, overlaps
from validation.case.errors import EnvironmentMissing
from validation.run.options import parsed


class Experts(torch.nn.Module):
    """A layer of experts, as far as a plan knows it."""

    def postprocess(self, output: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
        """Sum up."""
        return output + shared


class Chunk(torch.nn.Module):
    """Two layers, of which the second has experts, and a plan that computes them as megatron-core's does."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = SimpleNamespace(layers=[self._layer(1, torch.nn.Identity()), self._layer(2, Experts())])

    def _layer(self, number: int, mlp: torch.nn.Module) -> Any:
        return SimpleNamespace(
            layer_number=number, mlp=mlp, mlp_bda=lambda training, fused: lambda one, rest, dropout: one + rest
        )

    def build_schedule_plan(self, tokens: torch.Tensor) -> torch.Tensor:
        """Make a plan."""
        return tokens

    def run(self, given: torch.Tensor) -> torch.Tensor:
        """What the plan does, or the chunk itself."""
        dense, experts = self.decoder.layers
        given = dense.mlp_bda(True, False)(given, given, 0.0)
        given = experts.mlp_bda(True, False)(experts.mlp.postprocess(given, given), given, 0.0)
        return self._postprocess(given)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Compute, as a hook sees it."""
        return self.run(given)

    def _postprocess(self, given: torch.Tensor) -> torch.Tensor:
        return given * 10


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A chunk under observation, and what was recorded: each tensor goes on one larger."""
    monkeypatch.setattr(overlapped, "MoELayer", Experts)
    found: list[tuple[str, float]] = []

    def record(name: str, tensor: torch.Tensor) -> torch.Tensor:
        found.append((name, tensor.item()))
        return tensor + 1

    def losses(tensor: torch.Tensor) -> torch.Tensor:
        return record("losses", tensor)

    chunk: Any = Chunk()
    Planned(chunk, lambda: found.append(("begun", 0.0)), record, losses)
    return chunk, found


def test_a_plan_s_tensors_are_recorded_and_it_goes_on_with_what_comes_back(seen: Any) -> None:
    chunk, found = seen
    given = chunk.build_schedule_plan(torch.tensor(1.0))
    chunk.run(given)
    assert found == [
        ("begun", 0.0),
        ("layers.0.output", 2.0),
        ("layers.1.moe.output", 6.0),
        ("layers.1.output", 10.0),
        ("losses", 110.0),
    ]


def test_a_chunk_that_is_called_is_left_to_its_hooks(seen: Any) -> None:
    """As in evaluation, also after a plan: nothing is recorded twice."""
    chunk, found = seen
    chunk.build_schedule_plan(torch.tensor(1.0))
    del found[:]
    assert chunk(torch.tensor(1.0)).item() == 60.0
    assert found == []


def test_a_megatron_core_without_such_plans_is_refused() -> None:
    with pytest.raises(EnvironmentMissing, match=r"0\.16 and newer have known ones"):
        Planned(torch.nn.Identity(), lambda: None, lambda name, tensor: tensor, lambda tensor: tensor)  # type: ignore[arg-type]


def test_only_cases_that_ask_for_it_have_plans() -> None:
    plain, asked = parsed(["--layouts", "ep2,ep2+overlap_moe_expert_parallel_comm"]).cases
    assert (overlaps(plain), overlaps(asked)) == (False, True)
