"""What is written is in the file, whichever way the file system takes it."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from validation.convert import sink
from validation.convert.sink import ALIGNED, Sink

BLOCK = 4 * ALIGNED


class Disk(io.FileIO):
    """A file whose system calls are seen: how many bytes each was to write, and whether directly. `fails` may be in the way."""

    def __init__(self, path: Path, fails: Callable[[int, bool], int] = lambda size, direct: size) -> None:
        super().__init__(path, "w")
        self.calls: list[tuple[int, bool]] = []
        self.asked = False
        self._fails = fails

    def write(self, data: Any) -> int:
        """As much of it as `fails` says; that may raise."""
        self.calls.append((len(data), self.asked))
        return super().write(memoryview(data)[: self._fails(len(data), self.asked)])


@pytest.fixture(autouse=True)
def on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system agrees to direct writes; whether that was the last word is in `asked`."""

    def ask(file: Any, direct: bool) -> bool:
        file.asked = direct
        return True

    monkeypatch.setattr(sink, "_on_own_disk", lambda file: True)
    monkeypatch.setattr(sink, "_ask", ask)


def block() -> memoryview:
    """A block of memory that begins where a page does."""
    found = memoryview(mmap.mmap(-1, BLOCK))
    found[:] = os.urandom(BLOCK)
    return found


def written(file: Disk, *parts: memoryview) -> Sink:
    to = Sink(cast(Any, file))
    for part in parts:
        to.write(part)
    assert Path(cast(str, file.name)).read_bytes() == b"".join(parts)
    return to


def test_whole_blocks_go_directly_and_the_end_does_not(tmp_path: Path) -> None:
    file, blocks = Disk(tmp_path / "f"), [block(), block(), block()]
    to = written(file, *blocks[:2], blocks[2][:5])
    assert file.calls == [(BLOCK, True), (BLOCK, True), (5, False)]
    assert not to.direct


def test_a_file_system_that_refuses_after_all_is_written_to_as_usual(tmp_path: Path) -> None:
    def fails(size: int, direct: bool) -> int:
        if direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return size

    file = Disk(tmp_path / "f", fails)
    to = written(file, block(), block())
    assert file.calls == [(BLOCK, True), (BLOCK, False), (BLOCK, False)]
    assert not to.direct


def test_what_a_nearly_full_disk_leaves_of_a_block_is_given_again(tmp_path: Path) -> None:
    """At a place that is no multiple of anything, where nothing could be written directly."""
    file = Disk(tmp_path / "f", lambda size, direct: size // 2 + 1)
    written(file, block())
    assert [direct for _, direct in file.calls[:2]] == [True, False]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def fails(size: int, direct: bool) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Sink(cast(Any, Disk(tmp_path / "f", fails))).write(block())


def test_a_real_file_system_is_asked_whether_it_takes_direct_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is what the file's flags say; on none of this machine's own disks it is not asked."""
    monkeypatch.undo()
    data = block()
    with (tmp_path / "f").open("wb", buffering=0) as file:
        to = Sink(cast(Any, file))
        to.write(data)
        assert to.direct <= (os.major(os.stat(tmp_path).st_dev) != 0)
        assert to.direct == bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_DIRECT)
        to.write(data[:3])
        assert not to.direct
        assert not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_DIRECT
    assert (tmp_path / "f").read_bytes() == bytes(data) + bytes(data[:3])
    assert not Sink(cast(Any, io.BytesIO())).direct
