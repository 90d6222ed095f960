"""Writing large files once: past the kernel's file cache where it may be, else through it with the disk kept busy."""

from __future__ import annotations

import errno
import fcntl
import os
from io import RawIOBase

WRITE_BYTES = 256 << 10
"""Bytes of one system call: from 512 KiB on, Linux takes memory for a file in pieces so large that they are newly made."""
DISK_BYTES = 16 << 20
"""Bytes after which the disk begins with them, so that little is left for the end."""
ALIGNED = 4096
"""What memory, place and size are multiples of where bytes go to a disk directly."""


class Sink:
    """A file that is written from its beginning to its end.

    What is not read again soon gains nothing from the file cache, and to take memory for it costs several times what the disk
    needs (benchmarks/README.md). So its bytes go to the disk directly, O_DIRECT, where that is one of this machine; file
    systems of a network have caches of their own for which small direct writes are slow. In both ways they are in the file
    for every reader when `write` returns, and safe from a loss of power after fsync alone.
    """

    def __init__(self, file: RawIOBase) -> None:
        self._file = file
        self._written = self._begun = 0
        self.direct = _on_own_disk(file) and _ask(file, direct=True)
        """Whether bytes go to the disk directly: until the first that are no multiple of ALIGNED."""

    def write(self, data: memoryview) -> None:
        """Append all of it, from memory that begins at a multiple of ALIGNED. Raises OSError where the disk is full."""
        left = data
        if self.direct and len(data) % ALIGNED == 0:
            left = left[self._directly(data) :]
        if left:
            self._through_the_cache(left)
        self._written += len(data)

    def _directly(self, data: memoryview) -> int:
        try:
            return self._file.write(data) or 0
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0  # this file system takes the flag and no direct bytes

    def _through_the_cache(self, left: memoryview) -> None:
        """What is no whole block, what a disk that is nearly full has left of one, and all where nothing goes directly."""
        if self.direct:
            self.direct = not _ask(self._file, direct=False)
            self._begun = self._written
        while left:
            left = left[self._file.write(left[:WRITE_BYTES]) :]  # a disk that becomes full takes a part and says nothing
        if self._written - self._begun >= DISK_BYTES:
            # Linux begins to write them to the disk, and keeps them in memory since they are not there yet.
            os.posix_fadvise(self._file.fileno(), self._begun, self._written - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._written


def _on_own_disk(file: RawIOBase) -> bool:
    """Whether its file system lies on a block device: those of a network and those in memory have numbers without one."""
    try:
        return os.major(os.fstat(file.fileno()).st_dev) != 0
    except OSError:  # no file at all
        return False


def _ask(file: RawIOBase, direct: bool) -> bool:
    """Switch O_DIRECT; returns whether the file system agrees."""
    descriptor = file.fileno()
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return True
