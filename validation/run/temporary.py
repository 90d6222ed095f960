"""Where a run keeps what is gone when it ends, and where its sockets lie.

The path of a socket has at most 107 bytes, and schedulers give jobs longer temporary folders: sockets then lie elsewhere.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

from validation.case.errors import EnvironmentMissing

_BELOW = 512
"""Bytes of a path that are kept for what a run names below its temporary folder."""
_LONGEST = os.pathconf("/", "PC_PATH_MAX") - _BELOW
_SOCKET = "pymp-12345678/listener-12345678"
"""What multiprocessing names below the folder of its sockets."""


def settle() -> Path:
    """Choose both for this process and those that it starts; returns the temporary folder. Raises EnvironmentMissing."""
    folder = _folder()
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    place = next(filter(_takes_a_socket, _places(folder)), None)
    if place is None:
        raise EnvironmentMissing(
            f"no socket can be made below TMPDIR ({folder}), nor below /tmp, /var/tmp and /dev/shm; ranks are started through "
            "one: make one of these folders writable, or set TMPDIR to a folder whose path is shorter"
        )
    tempfile.tempdir = place
    try:
        util.get_temp_dir()  # multiprocessing remembers it
    finally:
        tempfile.tempdir = folder
    return Path(folder)


def _folder() -> str:
    """$TMPDIR as an absolute path, or where Python goes if no file can be made there."""
    if len(os.path.abspath(os.fsencode(os.environ.get("TMPDIR", "/")))) > _LONGEST:
        os.environ["TMPDIR"], tempfile.tempdir = "/tmp", None
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise EnvironmentMissing(f"{error.strerror}; set TMPDIR to a folder that can be written and has room") from error


def _places(folder: str) -> Iterator[str]:
    yield from (folder, "/tmp", "/var/tmp", "/dev/shm")
    yield from filter(None, (os.environ.get("XDG_RUNTIME_DIR"), os.getcwd()))


def _takes_a_socket(folder: str) -> bool:
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="") as own, socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.join(own, "s" * (len(_SOCKET) - len(os.path.basename(own)) - 1)))
            return True
    except OSError:
        return False
