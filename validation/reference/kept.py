"""What is kept between the stages of a model that is computed layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from validation.compare.precision import as_stored


class Kept(Protocol):
    """What is kept from stage to stage: hidden states at their borders, and the gradients that reach them."""

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor, in the place of what had its name."""

    def get(self, name: str) -> torch.Tensor:
        """It again, on the device. Raises KeyError for one that was not kept."""


class InFiles:
    """A file each in a folder."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        folder.mkdir()

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Write it."""
        torch.save(tensor.detach().cpu(), self._folder / f"{name}.pt")

    def forget(self, name: str) -> None:
        """Take its room back."""
        (self._folder / f"{name}.pt").unlink(missing_ok=True)

    def get(self, name: str) -> torch.Tensor:
        """Read it."""
        path = self._folder / f"{name}.pt"
        if not path.exists():
            raise KeyError(name)
        with as_stored():
            found: torch.Tensor = torch.load(path, weights_only=True).to(self._device)
            return found


def keep_rows(gradient: torch.Tensor, kept: Kept, run: str) -> None:
    """Keep the part of the embedding's gradient that comes of an MTP layer: of most tokens there is none."""
    with as_stored():
        rows = (gradient != 0).any(1).nonzero()[:, 0]
        kept.put(f"embedding-rows-{run}", rows)
        kept.put(f"embedding-{run}", gradient[rows])


def add_rows(gradient: torch.Tensor, kept: Kept, run: str) -> torch.Tensor:
    """The embedding's gradient with that part."""
    with as_stored():
        return gradient.index_add_(0, kept.get(f"embedding-rows-{run}"), kept.get(f"embedding-{run}"))
