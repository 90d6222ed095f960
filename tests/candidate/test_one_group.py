"""Over gloo a rank has one group of itself alone, and every other group that megatron-core makes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist
from megatron.core import parallel_state
from torch.distributed import distributed_c10d

import tests.core  # noqa: F401
from validation.candidate import build, gloo
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
    with gloo.one_group_of_one():
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


def test_all_groups_have_one_device_and_one_thread() -> None:
    """Those of several ranks, too, and behind another call: each device would be a thread and a socket more."""
    made: list[Any] = []
    store: Any = vars(dist)["HashStore"]
    for _ in range(2):
        with gloo.few_threads("gloo"):
            made += [distributed_c10d.ProcessGroupGloo(store(), 0, 1, timeout=timedelta(seconds=5)) for _ in range(2)]
    plain: Any = distributed_c10d.ProcessGroupGloo(store(), 0, 1, timeout=timedelta(seconds=5))
    assert all(isinstance(group, dist.ProcessGroupGloo) for group in made)
    assert [(group.options._threads, len(group.options._devices)) for group in (*made, plain)] == [(1, 1)] * 4 + [(2, 1)]
    assert len({id(group.options._devices[0]) for group in made}) == 1
    assert plain.options._devices[0] is not made[0].options._devices[0]
    with gloo.few_threads("staged-cpu"):
        assert distributed_c10d.ProcessGroupGloo is dist.ProcessGroupGloo


def test_groups_of_several_lanes_have_the_same_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of each interface, which are others than those of one lane."""
    found = [gloo.options(timedelta(seconds=5), threads=lanes, lanes=lanes) for lanes in (1, 3, 3)]
    assert [(one._threads, len(one._devices)) for one in found] == [(1, 1), (3, 3), (3, 3)]
    kept = [{id(device) for device in one._devices} for one in found]
    assert [len(devices) for devices in kept] == [1, 3, 3]
    assert kept[1] == kept[2]
    assert not kept[0] & kept[1]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,lo")
    assert len(gloo.options(timedelta(seconds=5), lanes=2)._devices) == 4
