"""What the models are fed: the same random tokens on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from validation.case.case import Case
from validation.case.data import END, FULL, LEFT_PADDED, PACKED, WITH_DOCUMENTS, wanted_tokens

MASKED_SHARE = 0.1
DOCUMENTS_A_SEQUENCE = 4
"""On average, beside those that every batch has."""


@dataclass(frozen=True)
class Batch:
    """One step's data, all of shape [batch_size, seq_length]: tokens, the token to predict, and where the loss counts.

    About a tenth of the positions do not count, unevenly spread: with every position counting, a loss averaged over the
    wrong number of tokens would look right. `documents` numbers the documents of each sequence from 0 and says which one
    a position belongs to; None if a position sees all before it. `real` says what is no padding; None if nothing is.
    `positions` are counted within documents; None if they are counted through the sequence.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    documents: torch.Tensor | None = None
    real: torch.Tensor | None = None
    positions: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self._there().items()})

    def tensors(self, step: int = 0) -> dict[str, torch.Tensor]:
        """By name, for a file that holds the batches of all steps."""
        return {f"{step}/{name}": tensor for name, tensor in self._there().items()}

    def _there(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

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
    return _with_tokens(_shaped(case, stream, mask, generator), wanted_tokens(case), generator)


def _shaped(case: Case, stream: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> Batch:
    """Tokens and what they predict, `stream` [batch, sequence + 1], as a batch of the case's shape."""
    if case.training.data_shape in WITH_DOCUMENTS:
        batch = _with_documents(stream, mask, case.model.vocab_size, generator)
        if case.training.data_shape == PACKED and batch.documents is not None:
            return replace(batch, positions=own_positions(batch.documents))
        return batch
    if case.training.data_shape != FULL:
        return _with_padding(stream, generator, left=case.training.data_shape == LEFT_PADDED)
    # Copies: of one sequence both would be views of the same storage, which no file takes.
    return Batch(stream[:, :-1].clone(), stream[:, 1:].clone(), mask)


def lacking(batch: Batch, wanted: Sequence[int]) -> list[int]:
    """Those of the wanted tokens that are no token of the batch, or no target that counts."""
    tokens, targets = batch.tokens.unique().tolist(), batch.labels[batch.mask].unique().tolist()
    return [token for token in wanted if token not in tokens or token not in targets]


def _with_tokens(batch: Batch, wanted: Sequence[int], generator: torch.Generator) -> Batch:
    """The batch with as many of the wanted tokens as fit into a quarter of it, each in the place of a token of no note.

    A mask of the vocabulary that is wrong at the edge of a shard shows in no other token.
    """
    target = batch.mask[:, :-1] & (batch.labels[:, :-1] == batch.tokens[:, 1:])
    plain = target & ~torch.isin(batch.tokens[:, 1:], torch.tensor(wanted))
    rows, places = plain.nonzero(as_tuple=True)
    chosen = torch.randperm(len(rows), generator=generator)[: batch.tokens.numel() // 4]
    for index, token in zip(chosen.tolist(), lacking(batch, wanted), strict=False):
        row, place = rows[index], places[index]
        if token != END or batch.documents is None:  # there it would end a document
            batch.tokens[row, place + 1] = batch.labels[row, place] = token
    return batch


def _with_documents(stream: torch.Tensor, mask: torch.Tensor, vocabulary: int, generator: torch.Generator) -> Batch:
    """The stream in several documents a sequence, each but the last ended by END, which does not count in the loss.

    In the middle, where the parts of context and sequence parallelism meet, one document ends. In every other sequence a
    document of one token follows it, in the others one begins the sequence. The last sequence ends with a document's end. In
    the second, and so in a micro-batch or a data-parallel rank, nothing counts in the loss.
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
    documents, mask = ended.cumsum(1) - ended.long(), mask & ~ended
    mask[1:2] = False
    return Batch(tokens, stream[:, 1:].clone(), mask, documents)


def _with_padding(stream: torch.Tensor, generator: torch.Generator, *, left: bool) -> Batch:
    """One document a sequence and END behind it, or before it if `left`; all that is no padding counts in the loss.

    The first sequence has no padding. The last has a quarter of the length, so that ranks that share a sequence hold padding
    alone. Behind a document comes END, which its last token predicts.
    """
    sequences, length = stream.shape[0], stream.shape[1] - 1
    lengths = torch.randint(length // 4, length + 1, (sequences, 1), generator=generator)
    lengths[-1], lengths[0] = length // 4, length
    index = torch.arange(length + 1).expand_as(stream)
    begins = length - lengths if left else torch.zeros_like(lengths)
    inside = (index >= begins) & (index < begins + lengths)
    stream = torch.where(inside, stream, END)
    real = inside[:, :-1].clone()
    # Padding before a document must not be attended to; behind it nothing attends to it.
    documents = real.long() if left else None
    return Batch(stream[:, :-1].clone(), stream[:, 1:].clone(), real.clone(), documents, real)
