"""What the models are fed: the same random tokens on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from validation.case.case import Case
from validation.case.data import DOCUMENTS, END

MASKED_SHARE = 0.1
DOCUMENTS_A_SEQUENCE = 4
"""On average, beside those that every batch has."""


@dataclass(frozen=True)
class Batch:
    """One step's data, all of shape [batch_size, seq_length]: tokens, the token to predict, and where the loss counts.

    About a tenth of the positions do not count, unevenly spread: with every position counting, a loss averaged over the
    wrong number of tokens would look right. `documents` numbers the documents of each sequence from 0 and says which one
    a position belongs to; None if each sequence is one document.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    documents: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        documents = None if self.documents is None else self.documents.to(device)
        return Batch(self.tokens.to(device), self.labels.to(device), self.mask.to(device), documents)

    def tensors(self, step: int = 0) -> dict[str, torch.Tensor]:
        """By name, for a file that holds the batches of all steps."""
        found = {f"{step}/tokens": self.tokens, f"{step}/labels": self.labels, f"{step}/mask": self.mask}
        return found if self.documents is None else {**found, f"{step}/documents": self.documents}

    @property
    def attended(self) -> torch.Tensor | None:
        """Where a position (row) attends to another (column), [batch_size, 1, seq_length, seq_length].

        None where a position attends to itself and to all before it.
        """
        if self.documents is None:
            return None
        return ~(other_documents(self.documents) | later(self.documents))


def other_documents(documents: torch.Tensor) -> torch.Tensor:
    """Which positions (columns) are of another document than a position (row): [batch, sequence] -> [batch, 1, ...]."""
    return (documents[:, :, None] != documents[:, None, :])[:, None]


def later(documents: torch.Tensor) -> torch.Tensor:
    """Which positions (columns) are behind a position (row): [sequence, sequence]."""
    length = documents.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=documents.device).triu(1)


def own_positions(documents: torch.Tensor) -> torch.Tensor:
    """Each position, counted from where its document begins; both [batch, sequence]."""
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - (index * begins).cummax(1).values


def make_batch(case: Case, step: int = 0) -> Batch:
    """The batch of one step, counted from 0, that the case's seed stands for."""
    generator = torch.Generator().manual_seed(case.seed + step)
    size = (case.batch_size, case.seq_length + 1)
    stream = torch.randint(0, case.model.vocab_size, size, generator=generator)
    # A rate of its own for every sequence makes the counts differ between micro-batches and data-parallel ranks.
    rates = 2 * MASKED_SHARE * torch.rand(case.batch_size, 1, generator=generator)
    mask = torch.rand(case.batch_size, case.seq_length, generator=generator) >= rates
    mask[-1, -1] &= not mask.all()  # of a batch of a few tokens all may count, which hides what is divided by how many
    if case.training.data_shape == DOCUMENTS:
        return _with_documents(stream, mask, case.model.vocab_size, generator)
    # Copies: of one sequence both would be views of the same storage, which no file takes.
    return Batch(stream[:, :-1].clone(), stream[:, 1:].clone(), mask)


def _with_documents(stream: torch.Tensor, mask: torch.Tensor, vocabulary: int, generator: torch.Generator) -> Batch:
    """The stream in several documents a sequence, each but the last ended by END, which does not count in the loss.

    In the middle, where the parts of context and sequence parallelism meet, one document ends. In every other sequence a
    document of one token follows it, in the others one begins the sequence. The last sequence ends with a document's end.
    """
    length = mask.shape[1]
    ends = torch.rand(stream.shape, generator=generator) < DOCUMENTS_A_SEQUENCE / length
    ends[:, length // 2 - 1] = True
    ends[0::2, length // 2] = True
    ends[1::2, 0] = True
    ends[-1, length - 1] = True
    stream = torch.where(stream == END, (END + 1) % vocabulary, stream)
    stream = torch.where(ends, END, stream)
    tokens, ended = stream[:, :-1].clone(), ends[:, :-1]
    documents = ended.cumsum(1) - ended.long()
    return Batch(tokens, stream[:, 1:].clone(), mask & ~ended, documents)
