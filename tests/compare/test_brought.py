"""Files that are brought to a device whole; without a GPU the CPU stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from validation.compare import brought
from validation.compare.brought import Brought
from validation.compare.sliced import CPU, SlicedFile, dtype_of

TENSORS = {
    "a": torch.arange(3, dtype=torch.uint8),
    "b": torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "c": torch.arange(5 * 7).view(5, 7).to(torch.bfloat16),
    "d": torch.tensor(7.0),
    "e": torch.zeros(0, 3),
}
INDICES = {"b": (slice(1, 3), slice(0, 6), slice(2, 5)), "c": (slice(4, 5), slice(0, 7))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tensors.safetensors"
    save_file(TENSORS, path)
    return path


def part(of: Brought, path: Path, name: str, whole: bool = True) -> torch.Tensor | None:
    file = SlicedFile(path)
    index = None if whole else INDICES[name]
    return of.part(path, file.start(name), dtype_of(file.dtype(name)), file.shape(name), index)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("at_once", [1, 100, 1 << 20])
def test_every_part_is_what_the_file_has(path: Path, name: str, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pieces the file comes in, and whether its tensors are aligned or not."""
    monkeypatch.setattr(brought, "_AT_ONCE", at_once)
    there = Brought(CPU)
    there.bring({path: brought._header(path)})
    found = part(there, path, name)
    assert found is not None
    assert torch.equal(found, TENSORS[name])
    if name in INDICES:
        cut = part(there, path, name, whole=False)
        assert cut is not None
        assert torch.equal(cut, TENSORS[name][INDICES[name]])


def test_a_file_that_ends_early_is_read_as_without(path: Path) -> None:
    """Whoever waits for its end does not wait for ever."""
    header = brought._header(path)
    path.write_bytes(path.read_bytes()[:-8])
    there = Brought(CPU)
    there.bring({path: header})
    size = path.stat().st_size - header
    assert there.size == size
    last = max(TENSORS, key=lambda name: SlicedFile(path).start(name) if TENSORS[name].numel() else 0)
    assert part(there, path, last) is None


def test_what_does_not_come_is_read_as_without(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say; the next file may come."""
    other = path.with_name("other.safetensors")
    save_file(TENSORS, other)
    made = torch.empty

    def lacking(size: int, **keywords: object) -> torch.Tensor:
        monkeypatch.setattr(torch, "empty", made)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch, "empty", lacking)
    there = Brought(CPU)
    there.bring({path: brought._header(path), other: brought._header(other)})
    assert part(there, path, "b") is None
    found = part(there, other, "b")
    assert found is not None
    assert torch.equal(found, TENSORS["b"])
    assert there.size == other.stat().st_size - brought._header(other)


def test_files_come_where_there_is_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of what is free, shared by the ranks; files that there are not are left out."""
    free = [brought.SHARE * 2 * path.stat().st_size]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 2 * free[0]))
    monkeypatch.setattr(brought, "_brought", [])
    brought.bring([path, path.with_name("absent")], CPU, 3)
    assert brought.size() == 0
    brought.bring([path, path.with_name("absent")], CPU, 2)
    file = SlicedFile(path)
    assert brought.size() == path.stat().st_size - brought._header(path)
    found = brought.part(path.resolve(), file.start("c"), torch.bfloat16, (5, 7), None)
    assert found is not None
    assert torch.equal(found, TENSORS["c"])
    assert brought.part(path.with_name("absent"), 8, torch.bfloat16, (5, 7), None) is None
