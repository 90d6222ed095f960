"""Weights in memory: each rank reads only its slices of the reference's checkpoint, and checks them exactly."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from megatron.core.models.gpt import GPTModel

from validation.candidate.recorder import Recorder
from validation.candidate.weights import Holding, Ranks, UnknownTensorError, holdings, tensors
from validation.case.model import Model
from validation.compare.piece import slices
from validation.reference.checkpoint import Checkpoint

Held = list[tuple[torch.Tensor, list[Holding]]]
WEIGHTS, GRADIENTS = "weights/", "gradients/"
"""What precedes a parameter's name in a report: its value and its gradient are two tensors."""


def held_by(chunks: Iterable[GPTModel], model: Model, recorder: Recorder) -> Held:
    """Every parameter and persistent buffer of this rank with what it holds of the checkpoint.

    One that the mapping does not know is a problem of its own, and stays NaN.
    """
    ranks, found = Ranks.here(), []
    for chunk in chunks:
        for name, tensor in tensors(chunk):
            try:
                found.append((tensor, holdings(name, tuple(tensor.shape), model, ranks)))
            except UnknownTensorError as error:
                recorder.problem(f"{WEIGHTS}{name}", str(error))
    return found


@torch.no_grad()
def load(chunks: list[GPTModel], held: Held, checkpoint: Checkpoint, recorder: Recorder) -> None:
    """Fill every tensor with NaN, copy what the mapping says, and leave word of each that is not wholly filled."""
    for chunk in chunks:
        for _, tensor in tensors(chunk):
            tensor.fill_(float("nan"))
    for tensor, parts in held:
        for part in parts:
            part.of(tensor).copy_(checkpoint.read(part.parameter.name, slices(part.box)))
    for chunk in chunks:
        for name, tensor in tensors(chunk):
            if torch.isnan(tensor).any():
                recorder.problem(f"{WEIGHTS}{name}", f"{name} holds elements that no checkpoint tensor set")


def compare_weights(held: Held, checkpoint: Checkpoint, recorder: Recorder) -> None:
    """Read every tensor back into the checkpoint's layout and measure it against the file, in the tensor's dtype."""
    for tensor, parts in held:
        for part in parts:
            expected = checkpoint.read(part.parameter.name, slices(part.box)).to(tensor.dtype)
            recorder.measure(f"{WEIGHTS}{part.parameter.name}", part.of(tensor.detach()), part.box, expected)
