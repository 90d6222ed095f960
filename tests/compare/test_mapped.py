"""Files that are mapped or opened, closed and opened again; what is handed out is of the map, and the map is read-only."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from validation.compare import file_bytes, mapped, sliced
from validation.compare.file_bytes import EndsEarly
from validation.compare.mapped import MappedFile, opened
from validation.compare.sliced import CPU, SlicedFile

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


@pytest.mark.parametrize("index", [(slice(4, 4), slice(0, 6)), (slice(3, 1), slice(2, None)), (slice(-2, None), slice(5, 6))])
def test_a_map_has_the_parts_that_the_tensor_has(path: Path, index: tuple[slice, ...]) -> None:
    """Empty ones, too."""
    assert torch.equal(MappedFile(path).read("a", index), DATA[index])


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


def test_what_a_file_says_of_itself_is_no_tensor(tmp_path: Path) -> None:
    """Its metadata stands among them in the header."""
    save_file({"a": DATA}, tmp_path / "m", metadata={"format": "pt"})
    assert SlicedFile(tmp_path / "m").keys() == ["a"]


@pytest.mark.parametrize(
    ("bounds", "worth", "axis"),
    [
        (((0, 4), (0, 6), (0, 5)), 1, 0),
        (((1, 2), (0, 6), (0, 5)), 1, 0),
        (((0, 4), (1, 3), (0, 5)), 1, 1),
        (((0, 4), (1, 3), (0, 5)), 10, 1),
        (((0, 4), (1, 3), (0, 5)), 11, 0),
        (((0, 4), (1, 3), (0, 5)), 15, 0),
        (((0, 4), (0, 6), (2, 4)), 2, 2),
        (((0, 4), (0, 6), (2, 4)), 3, 1),
        (((0, 4), (0, 6), (2, 4)), 31, 0),
    ],
)
def test_runs_are_read_along_the_last_dimension_that_is_cut_if_they_are_long_enough(
    bounds: tuple[tuple[int, int], ...], worth: int, axis: int
) -> None:
    """Else along one before it, whose runs are longer."""
    assert sliced._axis((4, 6, 5), bounds, worth) == axis


def test_onto_a_device_bytes_go_through_its_buffers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each buffer is given its own part of the file; a stand-in, for there need be no GPU."""
    target = torch.zeros(DATA.nbytes, dtype=torch.uint8)

    def fill(given: Any, read: Callable[[torch.Tensor, int], object]) -> None:
        for start in range(0, len(given.is_written), 64):
            read(given.is_written[start : start + 64], start)

    monkeypatch.setattr("validation.compare.staging.fill", fill)
    on_gpu: Any = SimpleNamespace(is_cuda=True, is_written=target)
    with path.open("rb") as file:
        file_bytes.read(on_gpu, file.fileno(), SlicedFile(path).start("a"), path)
    assert torch.equal(target.view(torch.float64).view(4, 6), DATA)
