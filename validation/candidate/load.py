"""Weights in memory: each rank reads only its slices of the reference's checkpoint, and checks them exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from megatron.core.models.gpt import GPTModel

from validation.candidate.recorder import Recorder
from validation.candidate.versions import store_biases
from validation.candidate.weights import Holding, Ranks, UnknownTensorError, holdings, tensors
from validation.case.model import Model
from validation.case.parameters import EXPERTS, Parameter
from validation.compare.piece import Box, slices
from validation.reference.sources import Weights

TOGETHER, TOGETHER_ON_DEVICE = 1 << 18, 1 << 27
"""Elements of experts that are measured as one piece; larger ones are measured expert by expert, without a copy."""
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
def load(chunks: list[GPTModel], recorder: Recorder, fill: Callable[[], None]) -> None:
    """Fill every tensor with NaN, have `fill` set them, and leave word of each that is not wholly set."""
    everything = fill_with_nan(chunks)
    fill()
    for name, tensor in everything:
        # A sum is no number if an element is none: one number to look at, but for those of infinities.
        if torch.isnan(tensor.sum()) and torch.isnan(tensor).any():
            recorder.problem(f"{WEIGHTS}{name}", f"{name} holds elements that no checkpoint tensor set")


@torch.no_grad()
def fill_with_nan(chunks: list[GPTModel]) -> list[tuple[str, torch.Tensor]]:
    """Every tensor of the chunks by its name, none of which holds a number any more, unless it holds integers."""
    for chunk in chunks:
        store_biases(chunk)
    everything = [found for chunk in chunks for found in tensors(chunk)]
    for _, tensor in everything:
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    return everything


@torch.no_grad()
def copy_weights(held: Held, checkpoint: Weights) -> None:
    """Copy what the mapping says from the reference's checkpoint."""
    for tensor, parts in held:
        for part in parts:
            part.of(tensor).copy_(checkpoint.read(part.parameter.name, slices(part.box)))


def compare_weights(held: Held, checkpoint: Weights, recorder: Recorder) -> None:
    """Read every tensor back into the checkpoint's layout and measure it against the file, in the tensor's dtype."""
    parts = ((part, part.of(tensor.detach())) for tensor, parts in held for part in parts)
    for parameter, box, value in together(parts):
        expected = checkpoint.read(parameter.name, slices(box)).to(value.dtype)
        recorder.measure(f"{WEIGHTS}{parameter.name}", value, box, expected, exact=True)


def together(parts: Iterable[tuple[Holding, torch.Tensor]]) -> Iterator[tuple[Parameter, Box, torch.Tensor]]:
    """The held parts, with small neighbouring experts joined to one piece each TOGETHER elements at most.

    A rank of a small model holds hundreds of experts' matrices of a few thousand elements; measuring each by itself would
    take most of its time.
    """
    run: list[tuple[Holding, torch.Tensor]] = []
    ordered = sorted(parts, key=lambda part: (part[0].parameter.name, part[0].box[1:], part[0].box[0]))
    for part in ordered:
        if run and not _continues(run, part):
            yield _joined(run)
            run = []
        run.append(part)
    if run:
        yield _joined(run)


def _continues(run: list[tuple[Holding, torch.Tensor]], part: tuple[Holding, torch.Tensor]) -> bool:
    last, new = run[-1][0], part[0]
    same = last.parameter is new.parameter or last.parameter == new.parameter
    expert = same and EXPERTS in new.parameter.name and last.box[1:] == new.box[1:]
    most = TOGETHER_ON_DEVICE if part[1].is_cuda else TOGETHER
    return expert and last.box[0][1] == new.box[0][0] and (len(run) + 1) * part[1].numel() <= most


def _joined(run: list[tuple[Holding, torch.Tensor]]) -> tuple[Parameter, Box, torch.Tensor]:
    first, last = run[0][0], run[-1][0]
    if len(run) == 1:
        return first.parameter, first.box, run[0][1]
    box = ((first.box[0][0], last.box[0][1]), *first.box[1:])
    return first.parameter, box, torch.cat([value for _, value in run])
