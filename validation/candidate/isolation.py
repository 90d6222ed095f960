"""Isolated cases: a rank goes on with the reference's tensors, forward and backward, whatever its own modules made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from validation.candidate.place import Place
from validation.candidate.recorder import Recorder
from validation.case.probes import Probe
from validation.compare.piece import slices
from validation.compare.precision import as_stored

View = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def in_place_of(
    like: torch.Tensor,
    view: View,
    probe: Probe,
    micro_batch: int,
    place: Place,
    recorder: Recorder,
    file: Path,
    scale: float = 1,
) -> torch.Tensor:
    """What the reference has in the place of `like`, `scale` times, of its shape and dtype.

    `view` shows a tensor such as `like` in the probe's axes. What the reference does not have stays as it is: positions of a
    multi-token prediction layer without a token to predict, tensors of another shape than declared.
    """
    value = like.detach().clone()
    with as_stored():
        for box, part in place.pieces(probe, view(value), micro_batch):
            expected = recorder.file(file).read(probe.name, slices(box))
            if part.shape == expected.shape:
                part.copy_(expected.to(torch.float64) * scale if scale != 1 else expected)
    return value
