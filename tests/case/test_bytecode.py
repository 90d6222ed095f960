"""Bytecode is kept in the cache where torch is installed without any and Python writes none; nowhere else."""

from __future__ import annotations

import compileall
import errno
import importlib.machinery
import importlib.util
import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from validation.case import bytecode

ROOT = Path(__file__).parents[2]
STARTS = (
    "from validation.case import interpreter; interpreter.settle(); import os, sys, torch; "
    "print(torch.__cached__); print(os.path.exists(torch.__cached__)); print(sys.dont_write_bytecode)"
)
SWITCH = {"PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder that has a package of torch's name, without bytecode."""
    folder = tmp_path / "packages"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("version = 1\n")
    return folder


def cached(packages: Path, *switches: str, **variables: str) -> tuple[Path, bool, bool]:
    """Where a Python has torch's bytecode, whether it is there, and whether Python writes none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": f"{packages}:{ROOT}", "PLUMBLINE_CACHE": str(packages.parent / "cache"), **variables}
    done = subprocess.run(
        [sys.executable, *switches, "-c", STARTS], env=environment, cwd=packages, capture_output=True, text=True, check=True
    )
    place, there, silent = done.stdout.split()
    return Path(place), there == "True", silent == "True"


def test_what_python_would_compile_each_time_is_kept_in_the_cache(packages: Path) -> None:
    """By the variable and by the option, which Python hands on by itself."""
    for given in (cached(packages, **SWITCH), cached(packages, "-B")):
        place, there, silent = given
        assert place.is_relative_to(packages.parent / "cache" / bytecode.FOLDER)
        assert there
        assert not silent
    assert not (packages / "torch" / "__pycache__").exists()


def test_what_is_kept_is_read_again(packages: Path) -> None:
    """It is not written a second time. What another source has compiled to is taken for that source's content."""
    place, _, _ = cached(packages, **SWITCH)
    before = place.stat().st_mtime_ns
    assert cached(packages, **SWITCH)[0].stat().st_mtime_ns == before
    kept, source = place.read_bytes(), packages / "torch" / "__init__.py"
    other = packages / "other.py"
    other.write_text("__cached__ = 'cached'\n")
    py_compile.compile(str(other), str(place), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    place.write_bytes(kept[:16] + place.read_bytes()[16:])
    assert str(cached(packages, **SWITCH)[0]) == "cached"
    source.write_text("version = 1 + 1\n")
    assert cached(packages, **SWITCH)[0] == place


def test_a_source_of_the_same_time_and_size_is_another(packages: Path) -> None:
    """Images give all of their files one time. Python by itself would run the old code."""
    source = packages / "torch" / "__init__.py"
    place, _, _ = cached(packages, **SWITCH)
    before, told = place.read_bytes(), source.stat()
    source.write_text("version = 2\n")
    os.utime(source, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert source.stat().st_size == told.st_size
    cached(packages, **SWITCH)
    assert place.read_bytes() != before
    assert place.read_bytes()[4] == 0b11


def test_a_source_that_changes_while_it_is_compiled_is_not_kept(packages: Path, tmp_path: Path) -> None:
    source, place = packages / "torch" / "__init__.py", tmp_path / "kept" / "torch.pyc"
    told = source.stat()
    data = importlib.util.MAGIC_NUMBER + bytes(4) + int(told.st_mtime).to_bytes(4, "little")
    for size in (told.st_size + 1, told.st_size):
        assert not place.exists()
        loader = importlib.machinery.SourceFileLoader("torch", str(source))
        bytecode._write(loader, str(source), str(place), data + size.to_bytes(4, "little") + b"code")
    assert place.read_bytes()[16:] == b"code"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_full_disk_leaves_no_part(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own writing leaves one under the name, and every later import of it fails."""
    source, place = packages / "torch" / "__init__.py", tmp_path / "kept" / "torch.pyc"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", full)
    loader = importlib.machinery.SourceFileLoader("torch", str(source))
    bytecode._write(loader, str(source), str(place), importlib.util.MAGIC_NUMBER + bytes((3, 0, 0, 0)) + b"code")
    assert list(place.parent.iterdir()) == []


def test_bytecode_that_is_there_is_taken(packages: Path) -> None:
    compileall.compile_dir(packages, quiet=1)
    place, there, silent = cached(packages, **SWITCH)
    assert place.parent == packages / "torch" / "__pycache__"
    assert there
    assert silent


def test_a_python_that_never_looks_at_sources_keeps_none(packages: Path) -> None:
    place, _, silent = cached(packages, "--check-hash-based-pycs", "never", **SWITCH)
    assert place.parent == packages / "torch" / "__pycache__"
    assert silent


def test_python_writes_its_own_where_it_may(packages: Path) -> None:
    place, there, silent = cached(packages)
    assert place.parent == packages / "torch" / "__pycache__"
    assert there
    assert not silent
    assert not (packages.parent / "cache").exists()


def test_a_folder_that_the_user_names_is_left(packages: Path, tmp_path: Path) -> None:
    place, there, silent = cached(packages, **SWITCH, PYTHONPYCACHEPREFIX=str(tmp_path / "own"))
    assert place.is_relative_to(tmp_path / "own")
    assert silent
    assert not there


@pytest.mark.parametrize("kind", ["writable", "link", "file", "another in its place"])
def test_a_folder_that_somebody_else_may_write_to_is_not_read(packages: Path, kind: str) -> None:
    """Bytecode is code."""
    folder = packages.parent / "cache" / bytecode.FOLDER
    folder.parent.mkdir()
    if kind == "file":
        folder.touch()
    elif kind == "another in its place":
        folder.parent.chmod(0o777)
    elif kind == "link":
        folder.symlink_to(packages)
    else:
        folder.mkdir()
        folder.chmod(0o777)
    place, there, silent = cached(packages, **SWITCH)
    assert place.parent == packages / "torch" / "__pycache__"
    assert silent
    assert not there


def test_without_a_place_for_the_cache_nothing_is_kept(packages: Path) -> None:
    (packages.parent / "cache").touch()
    _, there, silent = cached(packages, **SWITCH)
    assert silent
    assert not there


@pytest.mark.parametrize("may", [True, False])
def test_an_installation_of_another_users_stays_without(packages: Path, monkeypatch: pytest.MonkeyPatch, may: bool) -> None:
    """Python says nothing where it may not write."""
    (packages / "torch").rename(packages / "another")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(os, "access", lambda *_: may)
    assert bytecode._missing("another") is not may
