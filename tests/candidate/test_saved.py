"""Ranks load a checkpoint with megatron-core's own loader, and none of its files runs code there."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader

from validation.candidate.platform import same_steps_in_a_chain
from validation.candidate.saved import _as_data
from validation.case.errors import UsageError


class Leaves:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def test_torch_reads_metadata_as_data(tmp_path: Path) -> None:
    """Whichever of megatron-core's classes asks: they all end in torch's."""
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Leaves(tmp_path / "mark")))
    with _as_data(), pytest.raises(UsageError, match=r"asks for posix.mkdir"):
        FileSystemReader(tmp_path).read_metadata()
    assert not (tmp_path / "mark").exists()
    with pytest.raises(AttributeError):
        FileSystemReader(tmp_path).read_metadata()
    assert (tmp_path / "mark").exists()


def test_torch_loads_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where megatron-core asks for everything, and where the variable that turns the protection off is set."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(Leaves(tmp_path / "mark"), tmp_path / "common.pt")
    with _as_data(), pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "common.pt", weights_only=False)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("inner", [lambda state: {"state": state}, lambda state: {"optimizer": {"state": state}}])
def test_an_optimizer_without_parameters_here_saves_the_steps_of_its_chain(inner: Any) -> None:
    """Rank 0 writes them for all ranks, and may hold no experts. What one optimizer saves has no numbers, and stays."""
    dense, experts = inner({0: {}, "common_step": 3}), inner({})
    same_steps_in_a_chain({0: dense, 1: experts})
    assert experts == inner({"common_step": 3})
    alone = inner({})
    same_steps_in_a_chain(alone)
    assert alone == inner({})
