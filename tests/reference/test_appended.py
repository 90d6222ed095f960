"""A file that is written tensor by tensor is a safetensors file like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from validation.reference.appended import Appended


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    """Any dtype and shape, views and scalars among them."""
    tensors = {
        "double": torch.randn(3, 5, dtype=torch.float64),
        "turned": torch.arange(12).view(3, 4).T,
        "half": torch.randn(7).to(torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
    }
    with Appended(tmp_path / "file.safetensors", len(tensors)) as file:
        for name, tensor in tensors.items():
            file.add(name, tensor)
    found = load_file(tmp_path / "file.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    """The second would hide the first."""
    with Appended(tmp_path / "file.safetensors", 2) as file:
        file.add("one", torch.zeros(1))
        with pytest.raises(ValueError, match="written twice"):
            file.add("one", torch.zeros(1))


def test_a_header_without_room_is_refused(tmp_path: Path) -> None:
    """Rather than written over the first tensors."""
    file = Appended(tmp_path / "file.safetensors", 1)
    for index in range(100):
        file.add(f"{'long' * 20}-{index}", torch.zeros(1))
    with pytest.raises(ValueError, match="were left for it"):
        file.__exit__(None, None, None)
