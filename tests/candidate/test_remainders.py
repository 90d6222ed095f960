"""A master of which a precision-aware optimizer keeps the lower half beside a rounded bf16 parameter."""

from __future__ import annotations

from types import SimpleNamespace

import torch

import tests.core  # noqa: F401 - first
from validation.candidate.optimizer import _of_remainders


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
