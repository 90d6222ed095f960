"""A GPU that fails: a plugin, `tests/gpu/cards.py`, and a layer spec, `tests.gpu.cards:lost`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch


def plugin(kind: str) -> Any:
    """A kernel whose assertion does not hold, while a rank loads its weights: an error of the code under test."""
    return SimpleNamespace(loaded=_assertion)


def _assertion(case: Any, model: Any) -> None:
    table = torch.zeros(3, device="cuda")
    table[torch.full((2,), 7, device="cuda")] += 1


def lost(*given: object) -> None:
    """What torch raises when the card has fallen off the bus: no program can have it do so."""
    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
