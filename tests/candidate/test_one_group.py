"""Over gloo a rank has one group of itself alone, and every other group that megatron-core makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from megatron.core import parallel_state

import tests.core  # noqa: F401
from validation.candidate import build, platform
from validation.run.options import parsed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What groups are asked of torch, none of which is made."""
    found: list[Any] = []

    def make(ranks: Any = None, **named: Any) -> object:
        found.append(ranks)
        return object()

    monkeypatch.setattr(dist, "new_group", make)
    return found


def test_groups_of_the_same_single_rank_are_one(asked: list[Any]) -> None:
    """However they are asked for; those of two ranks, of all and of another backend are not."""
    before = dist.new_group
    with platform.one_group_of_one():
        one = dist.new_group(ranks=[0], timeout=1.0)
        assert dist.new_group([0], group_desc="other") is one
        others = [dist.new_group(ranks) for ranks in ([1], [0, 1], [0, 1], None, None)]
        others.append(dist.new_group([0], backend="nccl"))
        assert len({id(group) for group in (one, *others)}) == 1 + len(others)
    assert dist.new_group is before
    assert asked == [[0], [1], [0, 1], [0, 1], None, None, [0]]


@pytest.mark.parametrize(("transport", "shared"), [("gloo", True), ("staged-cpu", False)])
def test_they_are_one_over_gloo_alone(asked: list[Any], monkeypatch: pytest.MonkeyPatch, transport: str, shared: bool) -> None:
    """Other transports are left as they are."""
    seen = []
    monkeypatch.setattr(
        parallel_state,
        "initialize_model_parallel",
        lambda **given: seen.append(dist.new_group([0]) is dist.new_group([0])),
    )
    build.start_groups(parsed(["--layouts", "single", "--transport", transport]).cases[0])
    assert seen == [shared]
