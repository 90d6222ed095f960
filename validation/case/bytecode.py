"""Python's bytecode, kept where nobody else does: images without any have every process compile thousands of modules anew."""

from __future__ import annotations

import importlib.util
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from validation.case.errors import UsageError
from validation.case.home import unchecked

FOLDER = "bytecode"
"""Below the cache's folder."""


def keep() -> None:
    """Where torch has no bytecode and Python writes none beside it, this process reads and writes it in the cache.

    Python writes none if PYTHONDONTWRITEBYTECODE or `-B` says so, or if the installation is another user's. What has been
    imported by then is not written. A folder that somebody else may write to is left alone: bytecode is code.
    """
    if sys.pycache_prefix is None and _missing("torch"):
        with suppress(OSError, UsageError):
            sys.pycache_prefix = str(_own(unchecked() / FOLDER))
            sys.dont_write_bytecode = False


def _missing(package: str) -> bool:
    """Whether a package is installed without bytecode, and stays so."""
    with suppress(ImportError, ValueError, NotImplementedError):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin and spec.has_location:
            beside = Path(importlib.util.cache_from_source(spec.origin))
            return not beside.exists() and (sys.dont_write_bytecode or not os.access(beside.parents[1], os.W_OK))
    return False


def _own(folder: Path) -> Path:
    """The folder, made if it is not there. Raises OSError for one that somebody else may write to."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    told = folder.lstat()
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.geteuid() or told.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} may be written to by somebody else")
    return folder.resolve()
