"""What torch.save wrote, looked at before torch.load reads it: how large it becomes, and what it asks for.

torch.load of weights alone runs no code of a file, but has no limits: it inflates what was compressed, makes what has a size
of its own, and hashes any key.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast
from unittest import mock

import torch

from validation.candidate.checkpoint.pickled import Refused, check
from validation.case.plural import many

LARGEST = 64 << 20
"""Bytes of the pickle in a rank's file. That of 31,000 tensors, all experts of DeepSeek-V3 on one rank, has 8 MB."""
_DIRECTORY = 64 << 20
"""Bytes. A record takes some 100 of them."""
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_OLD = "is no archive of torch.save: the file is damaged, or of the format before torch 1.6; load and save it again"
_load = torch.load


def loaded(path: Path, **given: Any) -> Any:
    """torch.load of weights alone, from a regular file that is within the limits. Raises pickle.UnpicklingError, OSError."""
    # Whoever opens a pipe waits for its other end.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise Refused("is no regular file")
        check_archive(file)
    return _load(path, **given, weights_only=True)


def loaded_item(file: IO[bytes], **given: Any) -> Any:
    """The same from an open file."""
    check_archive(file)
    return _load(file, **given, weights_only=True)


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Within it torch.load holds to them, whoever calls it."""

    def load(file: Any, *_: object, **given: Any) -> Any:
        given = {name: value for name, value in given.items() if name in ("map_location", "mmap")}
        return loaded(Path(file), **given) if isinstance(file, (str, os.PathLike)) else loaded_item(file, **given)

    with mock.patch.object(torch, "load", load):
        yield


def check_archive(file: IO[bytes]) -> None:
    """Raises Refused where reading it would take more memory than its size, or where its pickle is not within the limits."""
    view = _View(file)
    size = view.seek(0, os.SEEK_END)
    _check_end(view, size)
    try:
        with zipfile.ZipFile(cast(IO[bytes], view)) as archive:
            records = archive.infolist()
            _check_records(records, size)
            pickles = [record for record in records if record.filename.lower().endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > LARGEST:
                raise Refused(f"has {many(len(pickles), 'pickle')} or one of more than {LARGEST} bytes")
            data = archive.read(pickles[0])
    # Whatever zipfile makes of a damaged file: NotImplementedError is its word for a way to compress that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, RuntimeError, struct.error):
        raise Refused(_OLD) from None
    finally:
        file.seek(0)
    check(data)


class _View(io.RawIOBase):
    """A file that can be sought from its end: torch's own view of a part of one goes the other way from there."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        file.seek(0, os.SEEK_END)
        self._file, self._at, self._size = file, 0, file.tell()

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Where the next byte is now."""
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, into: Any, /) -> int:
        """As many bytes as are there."""
        count = min(len(into), max(0, self._size - self._at))
        self._file.seek(self._at)
        found = self._file.read(count) if count else b""
        into[: len(found)] = found
        self._at += len(found)
        return len(found)


def _check_end(file: io.RawIOBase, size: int) -> None:
    """The directory has to lie where torch looks for it and Python too: right before its end, which is the file's."""
    tail = _END64.size + _LOCATOR.size + _END.size
    file.seek(max(0, size - tail))
    end = (file.read(tail) or b"").rjust(tail, b"\0")
    magic, *_, length, begin, comment = _END.unpack(end[-_END.size :])
    if magic != b"PK\5\6" or comment:
        raise Refused(_OLD)
    after = size - _END.size
    locator, _, there, _ = _LOCATOR.unpack(end[_END64.size : -_END.size])
    if locator == b"PK\6\7":
        magic, *_, length, begin = _END64.unpack(end[: _END64.size])
        after = size - tail
        if magic != b"PK\6\6" or there != after:
            raise Refused(_OLD)
    if begin + length != after or length > _DIRECTORY:
        raise Refused(_OLD)


def _check_records(records: list[zipfile.ZipInfo], size: int) -> None:
    names = {record.filename.lower() for record in records}
    folders = {record.filename.partition("/")[0] for record in records}
    if len(names) != len(records) or len(folders) != 1:
        raise Refused("has records that are there twice")
    if any(record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size for record in records):
        raise Refused("has a record that is compressed, as torch.save writes none")
    if sum(record.file_size for record in records) > size:
        raise Refused("has records that are larger than the file")
