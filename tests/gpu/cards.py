"""Plugins that have a GPU fail: `tests/gpu/cards.py:KIND`, while a rank loads its weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def plugin(kind: str) -> Any:
    """The plugin of this kind."""
    return SimpleNamespace(loaded=lambda case, model: _KINDS[kind]())


def _assertion() -> None:
    """A kernel whose assertion does not hold: an error of the code under test."""
    import torch

    table = torch.zeros(3, device="cuda")
    table[torch.full((2,), 7, device="cuda")] += 1


def _lost() -> None:
    """What torch raises when the card has fallen off the bus: no program can have it do so."""
    import torch

    torch.zeros(3, device="cuda")
    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")


_KINDS = {"assertion": _assertion, "lost": _lost}
