"""What the models are fed: the same random tokens on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from validation.case.case import Case

MASKED_SHARE = 0.1


@dataclass(frozen=True)
class Batch:
    """One step's data, all of shape [batch_size, seq_length]: tokens, the token to predict, and where the loss counts.

    About a tenth of the positions do not count, unevenly spread: with every position counting, a loss averaged over the
    wrong number of tokens would look right.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.tokens.to(device), self.labels.to(device), self.mask.to(device))

    def tensors(self, step: int = 0) -> dict[str, torch.Tensor]:
        """By name, for a file that holds the batches of all steps."""
        return {f"{step}/tokens": self.tokens, f"{step}/labels": self.labels, f"{step}/mask": self.mask}


def make_batch(case: Case, step: int = 0) -> Batch:
    """The batch of one step, counted from 0, that the case's seed stands for."""
    generator = torch.Generator().manual_seed(case.seed + step)
    size = (case.batch_size, case.seq_length + 1)
    stream = torch.randint(0, case.model.vocab_size, size, generator=generator)
    # A rate of its own for every sequence makes the counts differ between micro-batches and data-parallel ranks.
    rates = 2 * MASKED_SHARE * torch.rand(case.batch_size, 1, generator=generator)
    mask = torch.rand(case.batch_size, case.seq_length, generator=generator) >= rates
    mask[-1, -1] &= not mask.all()  # of a batch of a few tokens all may count, which hides what is divided by how many
    # Copies: of one sequence both would be views of the same storage, which no file takes.
    return Batch(stream[:, :-1].clone(), stream[:, 1:].clone(), mask)
