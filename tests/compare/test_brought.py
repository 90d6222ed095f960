"""Files that are brought to a device whole; without a GPU the CPU stands in for it."""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from validation.compare import brought
from validation.compare.brought import Brought
from validation.compare.file_bytes import EndsEarly
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


def test_a_part_is_a_view_unless_its_place_fits_no_element(tmp_path: Path) -> None:
    """What safetensors writes is aligned; what others write need not be."""
    tensors = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.tensor([1.5, 2.5]), "c": torch.arange(8, dtype=torch.uint8)}
    ends = {"a": (0, 3), "b": (3, 11), "c": (11, 19)}
    words = {"a": "U8", "b": "F32", "c": "U8"}
    said = {
        name: {"dtype": words[name], "shape": list(tensor.shape), "data_offsets": ends[name]}
        for name, tensor in tensors.items()
    }
    header = json.dumps(said).encode()
    data = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    (path := tmp_path / "unaligned.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    there = Brought(CPU)
    there.bring({path: brought._header(path)})
    found = {name: part(there, path, name) for name in tensors}
    assert {name: tensor.tolist() for name, tensor in found.items() if tensor is not None} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }
    views = {name: tensor.untyped_storage().nbytes() == len(data) for name, tensor in found.items() if tensor is not None}
    assert views == {"a": True, "b": False, "c": True}


def test_a_file_comes_in_few_pieces_and_without_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told behind each."""
    monkeypatch.setattr(brought, "_AT_ONCE", 1000)
    file = brought._File(path, header := brought._header(path))
    assert file.reached(header) is None
    told: list[int] = []
    monkeypatch.setattr(file._further, "notify_all", lambda: told.append(file._done))
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(action="error"):
            file.bring(CPU)
    finally:
        torch.set_warn_always(before)
    assert told == [1000, file.size]


def test_whoever_takes_a_part_waits_on_the_gpu_for_what_has_begun_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in their streams on that GPU. The thread keeps no rank from ending."""

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def wait_stream(self, other: Stream) -> None:
            said.append(("waits", self.device, other.device))

    def within(stream: Stream) -> AbstractContextManager[None]:
        said.append(("copies", stream.device))
        return nullcontext()

    def empty(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        said.append(("makes", device))
        return made(size, dtype=dtype)

    class Thread(threading.Thread):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            said.append((self.name, self.daemon))

    said: list[tuple[object, ...]] = []
    gpu, made = torch.device("cuda", 3), torch.empty
    for name, value in {"Stream": Stream, "current_stream": Stream, "stream": within}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(threading, "Thread", Thread)
    there = Brought(gpu)
    there.bring({path: brought._header(path)})
    assert part(there, path, "b") is not None
    assert said == [("brought", True), ("copies", gpu), ("makes", gpu), ("waits", gpu, gpu)]


def test_a_file_that_ends_early_is_read_as_without(path: Path) -> None:
    """Whoever waits for its end does not wait for ever. What is before it comes."""
    header = brought._header(path)
    path.write_bytes(path.read_bytes()[:-8])
    there = Brought(CPU)
    there.bring({path: header})
    size = path.stat().st_size - header
    assert there.size == size
    last = max(TENSORS, key=lambda name: SlicedFile(path).start(name) if TENSORS[name].numel() else 0)
    assert part(there, path, last) is None
    found = part(there, path, "b")
    assert found is not None
    assert torch.equal(found, TENSORS["b"])


def test_what_has_come_of_a_file_stays_where_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may hold a view of it, whose memory would else be given to the next file."""
    monkeypatch.setattr(brought, "_AT_ONCE", 1000)
    file = brought._File(path, brought._header(path))
    path.write_bytes(path.read_bytes()[:-8])
    assert file._kept is None
    with pytest.raises(EndsEarly, match=f"^{re.escape(str(path))}: ends 8 bytes before its header says$"):
        file.bring(CPU)
    came = file.reached(file.start + 1000)
    assert came is not None
    file.give_up()
    assert file._kept is came
    assert file.reached(file.start) is None


def test_what_does_not_come_is_read_as_without(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say; the next file may come."""
    other = path.with_name("other.safetensors")
    save_file({**TENSORS, "f": torch.zeros(8)}, other)
    made, lacks = torch.empty, path.stat().st_size - brought._header(path)

    def lacking(size: int, **keywords: Any) -> torch.Tensor:
        if size == lacks:
            raise torch.OutOfMemoryError("no room")
        return made(size, **keywords)

    monkeypatch.setattr(torch, "empty", lacking)
    there = Brought(CPU)
    there.bring({path: brought._header(path), other: brought._header(other)})
    assert part(there, path, "b") is None
    found = part(there, other, "b")
    assert found is not None
    assert torch.equal(found, TENSORS["b"])
    assert there.size == other.stat().st_size - brought._header(other)


def test_whoever_waits_for_a_file_that_does_not_come_stops_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of it is there before."""
    file = brought._File(path, header := brought._header(path))

    def wait_for(holds: Callable[[], bool]) -> None:
        said.append(holds())
        file.give_up()
        said.append(holds())

    said: list[bool] = []
    monkeypatch.setattr(file._further, "wait_for", wait_for)
    assert file.reached(header + 1) is None
    assert said == [False, True]


def test_files_come_where_there_is_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the memory that a GPU has and of what is free, shared by the ranks; files that there are not are left out."""
    enough = brought.SHARE * 2 * path.stat().st_size
    free, whole = [enough // 2], [enough]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {CPU: (free[0], whole[0])}[device])
    monkeypatch.setattr(brought, "_brought", [])
    assert Brought(CPU).size == 0
    for short in (free, whole):
        short[0] -= 1
        brought.bring([path, path.with_name("absent")], CPU, 2)
        assert brought.size() == 0
        short[0] += 1
    brought.bring([path, path.with_name("absent")], CPU, 2)
    file = SlicedFile(path)
    assert brought.size() == path.stat().st_size - brought._header(path)
    found = brought.part(path.resolve(), file.start("c"), torch.bfloat16, (5, 7), INDICES["c"])
    assert found is not None
    assert torch.equal(found, TENSORS["c"][INDICES["c"]])
    assert brought.part(path.with_name("absent"), 8, torch.bfloat16, (5, 7), None) is None
