"""Bytes of a file into memory that is there already, on the host or on a device."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from validation.case.plural import many
from validation.compare import staging


class EndsEarly(ValueError):
    """A file that is shorter than its header says."""

    @classmethod
    def by(cls, missing: int, path: Path) -> EndsEarly:
        """The file `path`, by so many bytes."""
        return cls(f"{path}: ends {many(missing, 'byte')} before its header says")


def read(target: torch.Tensor, number: int, place: int, path: Path) -> None:
    """Fill a flat tensor of bytes from the file open as `number`, which is `path`, from `place` on. Raises EndsEarly."""

    def fetch(part: torch.Tensor, start: int) -> None:
        if missing := read_into(memoryview(part.numpy().data), number, place + start):
            raise EndsEarly.by(missing, path)

    if target.is_cuda:
        staging.fill(target, fetch)
    else:
        fetch(target, 0)


def read_into(left: memoryview, number: int, place: int) -> int:
    """Fill memory with the bytes of the file open as `number` from `place` on; returns how many bytes the file lacks."""
    while left:
        count = os.preadv(number, [left], place)
        if not count:
            break
        left, place = left[count:], place + count
    return len(left)
