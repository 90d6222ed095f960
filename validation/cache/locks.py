"""Which folders of the cache a process uses: it holds a lock in each, which the kernel takes back when the process ends.

A user holds a shared lock on the folder's lock file, whoever deletes the folder an exclusive one: flock(2), which belongs to an
open file and not to a process, so that two parts of one process count as two. The lock file's time says when the folder was
last used.

If a file system has no such locks, as some network file systems, every folder counts as in use and nothing is deleted. Over
NFS the kernel asks the server. A mount with `nolock` or `local_lock` does not ask, and another machine's use is not seen there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCK = "lock"
"""The lock file of a folder."""
_TRIES = 8
_held: dict[Path, int] = {}
"""Folders that this process uses, with the open lock file of each."""


def use(folder: Path) -> bool:
    """Use a folder from now on, until `let_go` or the end of this process. False if it is not there, or is being deleted."""
    folder = folder.absolute()
    if folder in _held:
        _mark(_held[folder])
        return True
    number = _locked(folder, fcntl.LOCK_SH)
    if number is None:
        return False
    _mark(number)
    _held[folder] = number
    return True


def let_go(folder: Path) -> None:
    """Use this folder no longer, if it was in use."""
    if (number := _held.pop(folder.absolute(), None)) is not None:
        os.close(number)


def let_all_go() -> None:
    """Use none any longer."""
    for folder in list(_held):
        let_go(folder)


def new_folder(parent: Path, prefix: str) -> Path:
    """A new folder in `parent` that this process uses from the first moment on. Raises OSError."""
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if use(folder):
            return folder
        # Somebody who tidies up has come between the two calls.
    raise OSError(errno.ENOLCK, "no lock file can be made", str(folder / LOCK))


def renamed(folder: Path, to: Path) -> None:
    """Rename a folder that this process uses; it goes on using it. Raises OSError."""
    folder.rename(to)
    _held[to.absolute()] = _held.pop(folder.absolute())


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody uses the folder, nor begins to within this context. False if that cannot be known."""
    number = _locked(folder, fcntl.LOCK_EX)
    try:
        yield number is not None and _is_locked(number)
    finally:
        if number is not None:
            os.close(number)


def work(folder: Path) -> bool:
    """Whether the folder's file system has such locks, and this user may lock it."""
    number = _opened(folder / LOCK)
    if number is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(number)
    return True


def used(folder: Path) -> float:
    """When it was last used, in seconds since the epoch. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / LOCK).stat().st_mtime
    return folder.stat().st_mtime


def out_of_the_way(folder: Path) -> Path:
    """Rename a folder, so that nobody finds half of it while it is deleted. Raises OSError."""
    moved = folder.with_name(f".forgotten-{secrets.token_hex(4)}")
    folder.rename(moved)
    return moved


def _locked(folder: Path, kind: int) -> int | None:
    """The folder's open lock file with a lock of that kind, at once or not at all; without, where there are no locks."""
    number = _opened(folder / LOCK)
    if number is None:
        return None
    try:
        fcntl.flock(number, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    except OSError:
        pass  # there are none here, and `alone` asks again
    # Whoever deleted the folder meanwhile had renamed it before.
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(number), os.stat(folder / LOCK)):
            return number
    os.close(number)
    return None


def _opened(path: Path) -> int | None:
    """The lock file, made where there is none; for reading where it cannot be written."""
    for how in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with contextlib.suppress(OSError):
            return os.open(path, how | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    return None


def _is_locked(number: int) -> bool:
    """Whether the lock that was asked for is there: asking for it once more changes nothing."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _mark(number: int) -> None:
    with contextlib.suppress(OSError):  # another user's
        os.utime(number)
