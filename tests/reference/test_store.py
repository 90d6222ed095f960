"""The store gives back what was put into it, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from validation.cache import forget, locks
from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.reference import store

CASE = Case("tiny", TINY.model, Layout(), "fp64", "local", "gloo", 1, 2, 1, 8)
FILES = ("probes.safetensors", "gradients.safetensors", "weights.safetensors")


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """As in a process that has just started."""
    store._READ.clear()
    yield
    locks.let_all_go()


def made(folder: Path) -> dict[str, Any]:
    for name in FILES:
        save_file({"a": torch.arange(1000.0)}, folder / name)
    return {"floor": {"logits": 0.25}}


def flip(path: Path) -> None:
    """One bit in the middle, and nothing tells of it but the bytes: not the size, nor the time."""
    told, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "shortened": lambda path: os.truncate(path, path.stat().st_size - 1),
    "a page": lambda path: os.truncate(path, 10),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "zeros": zeros,
    "a bit": flip,
    "gone": Path.unlink,
    "a folder": a_folder,
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", [*FILES, "reference.json", "seal.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reference_with_a_damaged_file_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str, name: str, large: bool
) -> None:
    """It is computed again, and the new one is found. A large one, which is not read, is known by its times."""
    if large:
        monkeypatch.setattr(store, "_ALWAYS_READ", 0)
    folder = store.keep(CASE, tmp_path, made).folder
    assert store.find(CASE, tmp_path) == store.Reference(folder)
    store._READ.clear()
    DAMAGES[damage](folder / name)
    assert store.find(CASE, tmp_path) is None
    again = store.keep(CASE, tmp_path, made)
    assert store.find(CASE, tmp_path) == again
    forget.forget(tmp_path, None)
    assert [path.name for path in (tmp_path / "references").iterdir() if path.is_dir()] == [again.folder.name]


@pytest.mark.parametrize("seal", ["[]", "null", "{}", '{"probes.safetensors": 3}', '{"../x": {}}', "\xff", "[" * 100_000])
def test_a_seal_of_any_kind_is_no_error(tmp_path: Path, seal: str) -> None:
    (store.keep(CASE, tmp_path, made).folder / "seal.json").write_text(seal, encoding="latin-1")
    assert store.find(CASE, tmp_path) is None


def test_a_large_reference_that_nobody_touched_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reading it would cost as long as the case."""
    kept = store.keep(CASE, tmp_path, made)
    monkeypatch.setattr(store, "_ALWAYS_READ", 0)
    monkeypatch.setattr(store, "_digests", lambda folder: pytest.fail("it was read"))
    assert store.find(CASE, tmp_path) == kept


def test_a_cache_that_was_copied_is_read_once_and_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """CI restores it from an archive: other times, the same bytes."""
    store.keep(CASE, tmp_path / "here", made)
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    monkeypatch.setattr(store, "_ALWAYS_READ", 0)
    found = store.find(CASE, tmp_path / "there")
    assert found is not None
    store._READ.clear()
    monkeypatch.setattr(store, "_digests", lambda folder: pytest.fail("it was read again"))
    assert store.find(CASE, tmp_path / "there") == found


def test_a_reference_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Not even what it was interrupted in."""

    def failing(folder: Path) -> dict[str, Any]:
        made(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.keep(CASE, tmp_path, failing)
    assert list((tmp_path / "references").iterdir()) == []


def test_what_is_found_is_in_use_and_so_is_what_is_being_made(tmp_path: Path) -> None:
    """Another part of the machine forgets everything meanwhile."""
    other = replace(CASE, seed=2)
    kept = store.keep(other, tmp_path, made)
    assert store.find(other, tmp_path) == kept

    def made_while_others_forget(folder: Path) -> dict[str, Any]:
        forget.forget(tmp_path, 0)
        return made(folder)

    fresh = store.keep(CASE, tmp_path, made_while_others_forget)
    forget.forget(tmp_path, 0)
    assert kept.folder.exists()
    assert store.find(CASE, tmp_path) == fresh


def test_a_reference_in_use_is_not_replaced_under_its_user(tmp_path: Path) -> None:
    """--fresh in another process: the files that this one reads stay, and whoever comes later finds the new ones."""
    first = store.keep(CASE, tmp_path, made)
    held = locks._held.copy()
    locks._held.clear()  # the locks stay: they are another process's now
    second = store.keep(CASE, tmp_path, made)
    forget.forget(tmp_path, 0)
    assert json.loads((first.folder / "reference.json").read_text()) == {"floor": {"logits": 0.25}}
    assert store.find(CASE, tmp_path) == second
    locks._held.update(held)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 27])
def test_a_large_file_is_digested_in_parts_of_which_each_byte_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    """In their order; what fits into one part has its SHA-256, as `sha256sum` prints it."""
    monkeypatch.setattr(store, "_PART", 10)
    monkeypatch.setattr(store, "_AT_ONCE", 4)
    content = bytes(range(size))
    others = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(size)]
    others += [content[10:] + content[:10]] if size > 10 else []
    for number, one in enumerate([content, *others, content + b"x"]):
        (tmp_path / f"{number:02}").write_bytes(one)
    found = list(store._digests(tmp_path).values())
    assert len(set(found)) == len(found)
    if size <= 10:
        assert found[0] == hashlib.sha256(content).hexdigest()
    else:
        parts = [hashlib.sha256(content[place : place + 10]).hexdigest() for place in range(0, size, 10)]
        assert found[0] == hashlib.sha256("".join(parts).encode()).hexdigest()
