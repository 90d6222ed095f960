"""Gradients that are added up in the model's precision, as megatron-core's are with `ddp.grad_reduce_in_fp32=false`.

How often that rounds depends on the micro-batches and ranks of a layout. A reference serves all, and has the most of them: the
gradient of each sequence by itself is rounded and added to the sum of those before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_sequences: list[int] = []
"""How many sequences are added up one by one, and the one that is being added; empty if they are computed together."""


@contextmanager
def one_by_one(sequences: int) -> Iterator[None]:
    """Within it a backward pass is one for each sequence, whose gradients torch adds up in the parameters' dtype."""
    _sequences[:] = [sequences, 0]
    try:
        yield
    finally:
        _sequences.clear()


def of_sequences(losses: torch.Tensor) -> torch.Tensor:
    """Token losses, [batch, sequence], of which one sequence after the other goes back."""
    if _sequences and losses.requires_grad:
        rows = torch.arange(len(losses), device=losses.device)[:, None]
        losses.register_hook(lambda gradient: gradient * (rows == _sequences[1]))
    return losses


def shared(loss: torch.Tensor | float) -> torch.Tensor | float:
    """A loss of no single sequence, of which an equal share goes back with each."""
    if _sequences and isinstance(loss, torch.Tensor) and loss.requires_grad:
        loss.register_hook(lambda gradient: gradient / _sequences[0])
    return loss


def backward(loss: torch.Tensor) -> None:
    """The backward pass, or one for each sequence.

    Not loss.backward(): torch suspends the active mode inside that method, and with it the promotion to float64.
    """
    if not _sequences:
        torch.autograd.backward(loss)
        return
    count, _ = _sequences
    for sequence in range(count):
        _sequences[1] = sequence
        torch.autograd.backward(loss, retain_graph=sequence < count - 1)


def factor(tokens: int) -> float:
    """What gradients are multiplied with at the end, which rounds them: between 0.5 and 1, for megatron-core the inverse of the
    number of tokens.
    """
    return 2.0 ** (tokens.bit_length() - 1) / tokens
