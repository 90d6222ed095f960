"""In which cases torch's functions are exchanged, and that this reaches megatron-core."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

import tests.core  # noqa: F401
from validation.candidate import platform
from validation.compare import exchanged
from validation.compare.precision import computing_in
from validation.run.options import parsed
from validation.run.worker import imports_nothing

CASES = {
    "tp2": ("tp2", "local", "", True),
    "on a GPU": ("tp2 --share-gpu 2", "local", "", False),
    "a plugin": ("tp2", "local", "mine.py", False),
    "a spec of a user's": ("tp2", "package.module:function", "", False),
    "lockstep": ("single+stream", "local", "", False),
    "inference": ("tp2+static", "local", "", False),
}


@pytest.mark.parametrize(("label", "implementation", "plugin", "wanted"), CASES.values(), ids=CASES)
def test_all_calls_are_seen_where_more_is_imported(label: str, implementation: str, plugin: str, wanted: bool) -> None:
    """What is imported later may hide a function in a table, and what users write is theirs."""
    case = parsed(["--layouts", *label.split(), "--implementation", implementation, "--steps", "0"]).cases[0]
    assert imports_nothing(case, plugin) is wanted


@pytest.fixture
def without_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests have tables of torch's functions; a rank has no tests."""
    modules = {name: module for name, module in sys.modules.items() if not name.startswith(("test", "conftest", "_pytest"))}
    monkeypatch.setattr(exchanged, "sys", SimpleNamespace(modules=modules))
    exchanged.others.cache_clear()
    yield
    exchanged.others.cache_clear()


@pytest.mark.usefixtures("without_tests")
def test_megatron_core_keeps_no_function_out_of_reach() -> None:
    """A sharded tensor's default is one of torch's functions; an exchange is there, too, and a mode sees no call."""
    tensor = pytest.importorskip("megatron.core.dist_checkpointing.mapping").ShardedTensor
    made = tensor.from_rank_offsets("name", torch.ones(2))
    made.data = None
    with computing_in("fp64", platform.CudaMeansCpu, exchange=True):
        assert torch.overrides._get_current_function_mode() is None
        made.init_data("cuda")
    assert made.data.dtype is torch.float64
