"""Python's bytecode, kept where nobody else does: images without any have every process compile thousands of modules anew."""

from __future__ import annotations

import _imp
import importlib.util
import os
import stat
import sys
import tempfile
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from validation.case.errors import UsageError
from validation.case.home import unchecked

FOLDER = "bytecode"
"""Below the cache's folder."""
_HEADER = 16
"""Bytes in front of the code: a number for the Python, flags, and the source's time and size, or its hash (PEP 552)."""
_CHECKED_HASH = 0b11


def keep() -> None:
    """Where torch has no bytecode and Python writes none beside it, this process reads and writes it in the cache.

    Python writes none if PYTHONDONTWRITEBYTECODE or `-B` says so, or if the installation is another user's. It is held against
    the content of its source, and not against a time, which another image with the same paths may have, too. A folder that
    somebody else may write to is left alone: bytecode is code.
    """
    if sys.pycache_prefix is None and _imp.check_hash_based_pycs != "never" and _missing("torch"):
        with suppress(OSError, UsageError):
            sys.pycache_prefix = str(_own(unchecked() / FOLDER))
            sys.dont_write_bytecode = False
            loader: Any = SourceFileLoader
            loader._cache_bytecode = _write


def places(source: Path) -> tuple[Path, Path]:
    """Where Python may find the bytecode of a source: beside it, and where this process keeps it."""
    beside = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    return beside, Path(importlib.util.cache_from_source(str(source)))


def _missing(package: str) -> bool:
    """Whether a package is installed without bytecode, and stays so."""
    # A module without a spec, and a Python that has no bytecode at all.
    with suppress(ImportError, ValueError, NotImplementedError):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin and spec.has_location:
            beside, _ = places(Path(spec.origin))
            return not os.path.exists(beside) and (sys.dont_write_bytecode or not os.access(beside.parents[1], os.W_OK))
    return False


def _own(folder: Path) -> Path:
    """The folder, made if it is not there. Raises OSError if somebody else may write to it, or put another in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    found = folder.resolve()
    for place in (found, *found.parents):
        told = place.stat()
        sticky = place != found and told.st_mode & stat.S_ISVTX
        if told.st_uid not in (os.geteuid(), 0) or (told.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky):
            raise PermissionError(f"{place} may be written to by somebody else")
    return found


def _write(loader: SourceFileLoader, source_path: str, bytecode_path: str, data: bytes) -> None:
    """In place of SourceFileLoader's `_cache_bytecode`, which names the source's time and size, and may write a part.

    https://github.com/python/cpython/blob/v3.11.7/Lib/importlib/_bootstrap_external.py
    """
    place = Path(bytecode_path)
    part = None
    try:
        if not data[4]:
            data = data[:4] + _CHECKED_HASH.to_bytes(4, "little") + _hash(source_path, data[8:_HEADER]) + data[_HEADER:]
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            part = Path(file.name)
            file.write(data)
        part.replace(place)
    except OSError:  # a full disk: the next process compiles it
        if part is not None:
            part.unlink(missing_ok=True)


def _hash(source_path: str, compiled: bytes) -> bytes:
    """Of the source that has been compiled. Raises OSError if it is not what it was then."""
    with open(source_path, "rb") as file:
        source = file.read()
        told = os.fstat(file.fileno())
    now = int(told.st_mtime) & 0xFFFFFFFF, len(source) & 0xFFFFFFFF
    if b"".join(number.to_bytes(4, "little") for number in now) != compiled:
        raise OSError(f"{source_path} has changed since")
    return importlib.util.source_hash(source)
