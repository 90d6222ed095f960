"""What a distributed optimizer keeps: shares on several ranks, and masters whose lower half lies beside a bf16 parameter."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

import tests.core  # noqa: F401 - first
from validation.candidate import optimizer as optimizers
from validation.candidate.optimizer import _gathered, _of_remainders


def test_a_master_is_put_together_from_its_halves() -> None:
    """To the bit, whether the parameter was rounded up or down."""
    master = torch.randn(64, generator=torch.Generator().manual_seed(0))
    lower = master.view(torch.int16).view(-1, 2)[:, 0].clone()
    parameter = ((master.view(torch.int32) >> 16) + (lower < 0).int()).to(torch.int16).view(torch.bfloat16)
    assert torch.equal(parameter, master.to(torch.bfloat16))
    groups = SimpleNamespace(param_groups=[{"params": [parameter]}])
    optimizer = SimpleNamespace(model_param_group_index_map={parameter: (0, 0)}, optimizer=groups)
    assert torch.equal(_of_remainders(optimizer, parameter, lower), master)
    assert _of_remainders(optimizer, parameter, master) is master


@pytest.mark.parametrize(
    ("size", "times"), [(512 << 20, {"dp": 1, "edp": 1}), (28, {"dp": 5, "edp": 1}), (4, {"dp": 30, "edp": 6})]
)
def test_each_group_adds_up_its_shares_together(monkeypatch: pytest.MonkeyPatch, size: int, times: dict[str, int]) -> None:
    """So many bytes at a time. The second of two ranks holds the same share: that shows as twice the number.

    Another's share shows as nothing.
    """
    monkeypatch.setattr(optimizers, "_AT_ONCE", size)
    asked: Counter[str] = Counter()

    def both_ranks(tensor: torch.Tensor, group: str) -> None:
        asked[group] += 1
        tensor *= 2

    monkeypatch.setattr(dist, "all_reduce", both_ranks)
    held, other, expert = torch.zeros(2, 3), torch.zeros(4), torch.zeros(2)
    shares = {held: SimpleNamespace(start=1, end=4), expert: SimpleNamespace(start=0, end=2)}

    def optimizer(group: str) -> Any:
        return SimpleNamespace(
            data_parallel_group=group,
            model_param_group_index_map=shares,
            _get_model_param_range_map=lambda tensor: {"param": shares[tensor]},
            _get_main_param_and_optimizer_states=lambda tensor: {
                kind: torch.full((shares[tensor].end - shares[tensor].start,), number)
                for kind, number in (("exp_avg", 1.0), ("exp_avg_sq", 3.0), ("param", 5.0))
            },
        )

    dense, experts = optimizer("dp"), optimizer("edp")
    kinds = ("exp_avg", "exp_avg_sq")
    found = _gathered([(dense, held), (experts, expert), (dense, other)], kinds, masters=True)
    assert asked == times
    assert [list(states) for states in found] == [[*kinds, "master"]] * 3
    assert found[0]["exp_avg"].tolist() == [[0, 2, 2], [2, 0, 0]]
    assert found[0]["master"].tolist() == [[0, 10, 10], [10, 0, 0]]
    assert found[1]["exp_avg_sq"].tolist() == [6, 6]
    assert found[2]["exp_avg"].tolist() == [0, 0, 0, 0]
