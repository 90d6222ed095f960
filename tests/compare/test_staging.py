"""Threads that fill a buffer; the way of the buffer to a GPU is shown there (tests/gpu)."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from validation.compare import staging


@pytest.mark.parametrize("size", [0, 5, (1 << 20) - 1, 1 << 21, (1 << 22) + 3, 9 << 20])
@pytest.mark.parametrize("start", [0, 7])
def test_each_byte_is_read_from_its_place(size: int, start: int) -> None:
    """By as many threads as are worth it."""
    source = torch.randint(0, 256, (start + size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    around, by = torch.zeros(3 + size, dtype=torch.uint8), set()

    def read(part: torch.Tensor, place: int) -> None:
        by.add(threading.get_ident())
        part.copy_(source[place : place + len(part)])

    with ThreadPoolExecutor(4) as pool:
        staging._read_by(pool, around[3:], start, read)
    assert torch.equal(around[3:], source[start:])
    assert threading.get_ident() in by or size >= 1 << 21


def test_when_it_fails_nobody_writes_any_more() -> None:
    """The buffer may be another thread's by then."""
    ended: list[int] = []

    def read(part: torch.Tensor, place: int) -> None:
        if place == 0:
            raise OSError("Input/output error")
        time.sleep(0.2)
        ended.append(place)

    with ThreadPoolExecutor(4) as pool:
        with pytest.raises(OSError, match="Input/output error"):
            staging._read_by(pool, torch.zeros(4 << 20, dtype=torch.uint8), 0, read)
        assert sorted(ended) == [1 << 20, 2 << 20, 3 << 20]
