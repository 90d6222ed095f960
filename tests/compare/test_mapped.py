"""Files that are mapped or opened, closed and opened again; what is handed out is of the map, and the map is read-only."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from validation.compare import mapped
from validation.compare.mapped import MappedFile, opened
from validation.compare.sliced import CPU, EndsEarly, SlicedFile

DATA = torch.arange(24, dtype=torch.float64).view(4, 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file({"a": DATA}, tmp_path / "f")
    return tmp_path / "f"


@pytest.mark.parametrize("kind", [SlicedFile, MappedFile])
def test_a_file_that_was_closed_is_opened_again(path: Path, kind: type[SlicedFile]) -> None:
    """As often as somebody reads; closing what is closed is nothing."""
    file = kind(path)
    file.close()
    for _ in range(2):
        assert torch.equal(file.read("a"), DATA)
        number = file._number
        assert number is not None
        file.close()
        file.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


def test_what_is_read_is_of_the_map_and_the_map_is_read_only(path: Path) -> None:
    """A copy of each of a thousand pieces would take longer than what is done with it."""
    file = MappedFile(path)
    found = file.read("a", (slice(1, 3), slice(0, 6)))
    assert torch.equal(found, DATA[1:3])
    assert found.untyped_storage().nbytes() == path.stat().st_size
    (permissions,) = re.findall(rf"^\S+ (\S+) .*{re.escape(str(path))}$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    assert permissions == "r--p"


def test_a_kernel_that_cannot_read_ahead_reads_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 5.14 it refuses."""
    monkeypatch.setattr(mapped, "_POPULATE_READ", 12345)
    assert torch.equal(MappedFile(path).read("a"), DATA)


def test_that_a_map_is_read_only_is_warned_of_to_nobody(path: Path) -> None:
    """Warnings may be errors where a user runs it."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(MappedFile(path).read("a"), DATA)
    finally:
        torch.set_warn_always(always)


def test_how_much_is_missing_of_a_file_is_said(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 24)
    for kind in (SlicedFile, MappedFile):
        with pytest.raises(EndsEarly, match=f"^{re.escape(str(path))}: ends 24 bytes before its header says$"):
            kind(path).read("a")


def test_a_part_has_as_many_slices_as_the_tensor_has_dimensions(path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        SlicedFile(path).read("a", (slice(0, 1),))


def test_a_file_is_opened_as_what_it_is_best_read_as(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to so many bytes as a map, and each knows its path and its device."""
    meta = torch.device("meta")
    monkeypatch.setattr(mapped, "LARGEST", path.stat().st_size)
    small, elsewhere = opened(path, CPU), opened(path, meta)
    monkeypatch.setattr(mapped, "LARGEST", path.stat().st_size - 1)
    large = opened(path, CPU)
    assert [type(file) for file in (small, elsewhere, large)] == [MappedFile, SlicedFile, SlicedFile]
    assert [file.path for file in (small, elsewhere, large)] == [path] * 3
    assert [file.device for file in (small, elsewhere, large)] == [CPU, meta, CPU]
    assert large.read("a").device == CPU
