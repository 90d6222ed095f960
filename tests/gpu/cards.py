"""Plugins that have a GPU fail: `tests/gpu/cards.py:KIND` while a rank loads its weights."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any


def plugin(kind: str) -> Any:
    """The plugin that spoils the context of rank 0's GPU."""
    return SimpleNamespace(loaded=lambda case, model: _KINDS[kind]())


def _assertion() -> None:
    """A kernel whose assertion does not hold: an error of the code under test."""
    import torch

    table = torch.zeros(3, device="cuda")
    table[torch.full((2,), 7, device="cuda")] += 1


def _lost() -> None:
    """The context is taken away, as by a card that drops out: every later call fails."""
    driver = ctypes.CDLL("libcuda.so.1")
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDevicePrimaryCtxReset_v2(device)


_KINDS = {"assertion": _assertion, "lost": _lost}
