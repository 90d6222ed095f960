"""How much room a case takes on a disk is known before it runs, and what is too little is said with the numbers."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from validation.case import disk
from validation.case.case import Case
from validation.run.options import parsed

MB = 10**6


def case(*words: str) -> Case:
    return parsed(list(words)).cases[0]


@pytest.mark.parametrize(
    ("words", "found"),
    [(("--steps", "0"), 19.35 * MB), ((), 39.24 * MB), (("--preset", "mini", "--layouts", "tp2"), None)],
)
def test_a_reference_takes_what_was_measured(words: tuple[str, ...], found: float | None) -> None:
    """Of tiny in fp64 the sizes of the stored files; of every model its largest file is a part of the whole."""
    whole, largest = disk.of_reference(case(*words))
    assert 0 < largest < whole
    if found is not None:
        assert whole == pytest.approx(found, rel=0.01)


def test_layer_by_layer_no_gradient_of_an_expert_is_stored() -> None:
    """They are made again from the probes: of 12.6 billion parameters that would be 50 GB."""
    whole, _ = disk.of_reference(case("--preset", "v3-layers", "--precision", "bf16", "--transport", "nccl"))
    assert whole < 30 * 10**9


def statvfs(free: int, inodes: int = 100) -> os.statvfs_result:
    """Of a file system with so many bytes free."""
    return os.statvfs_result((4096, 4096, 1000, free // 4096, free // 4096, 100, inodes, inodes, 0, 255))


def test_what_is_enough_is_no_shortage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda folder: statvfs(40 << 20))
    assert disk.shortage([disk.references([case()], tmp_path / "not" / "there")]) is None


@pytest.mark.parametrize("inodes", [100, 0])
def test_too_little_room_is_said_with_how_much_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inodes: int) -> None:
    """A disk without an inode has no room, whatever its blocks say."""
    monkeypatch.setattr(os, "statvfs", lambda folder: statvfs(20 << 20 if inodes else 1 << 40, inodes))
    said = disk.shortage([disk.references([case()], tmp_path)])
    free = "20.0 MiB" if inodes else "0.0 MiB"
    assert said is not None
    assert said.startswith(f"the cache of references needs about 37.4 MiB in {tmp_path}")
    assert said.endswith(f"{free} are free there; make room there, or name another folder with PLUMBLINE_CACHE")


def test_what_shares_a_disk_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone would have room."""
    monkeypatch.setattr(os, "statvfs", lambda folder: statvfs(38 << 20))
    cases = [case(), case("--seed", "2")]
    assert disk.shortage([disk.references(cases[:1], tmp_path)]) is None
    said = disk.shortage([disk.references(cases[:1], tmp_path), disk.reports(cases, tmp_path / "results")])
    assert said is not None
    assert said.startswith("the report needs about 1.3 MiB")
    assert said.endswith("with --results")


def test_a_limit_of_a_files_size_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ulimit -f`, which a shared machine sets."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 20, 1 << 20))
    said = disk.shortage([disk.references([case()], tmp_path)])
    assert said is not None
    assert "needs a file of 18.9 MiB" in said
    assert "no file may be larger than 1.0 MiB here" in said
