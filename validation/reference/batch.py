"""What the models are fed: the same random tokens on both sides."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from validation.case import tokens
from validation.case.case import Case
from validation.case.data import END, LEFT_PADDED, PACKED, PACKED_PADDED, WITH_DOCUMENTS, WITH_PADDING, regions, wanted_tokens
from validation.case.model import Model
from validation.compare.sliced import SlicedFile

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

    @classmethod
    def stored(cls, file: SlicedFile, step: int = 0) -> Batch:
        """That of a step, of a file that holds the batches of all steps."""
        before, names = f"{step}/", file.keys()
        return cls(**{name.removeprefix(before): file.read(name) for name in names if name.startswith(before)})

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


def real_in(layer: int, batch: Batch, model: Model) -> torch.Tensor | None:
    """Which positions of a layer's input are no padding, [batch, sequence]; None if there is no padding.

    An MTP layer looks ahead: a position is what its next token is. The filler behind a sequence, and behind a document, counts
    as a token, as in megatron-core (validation.reference.mtp).
    """
    ahead, real = max(0, layer - model.num_hidden_layers + 1), batch.real
    if real is None or not ahead:
        return real
    own = same_document_ahead(batch, ahead)
    further = real[:, ahead:] if own is None else real[:, ahead:] | ~own
    return torch.cat([further, torch.ones_like(real[:, :ahead])], 1)


def same_document_ahead(batch: Batch, positions: int) -> torch.Tensor | None:
    """Whether what is so many positions further on is of the same document, [batch, sequence - positions]; None if all is."""
    number = batch.documents
    return None if number is None else number[:, positions:] == number[:, : number.shape[1] - positions]


def make_batch(case: Case, step: int = 0) -> Batch:
    """The batch of one step, counted from 0: the one that the case's seed stands for, or the next tokens of its file."""
    if case.data is not None:
        return _of_file(case, case.data, step)
    generator = torch.Generator().manual_seed(case.seed + step)
    size = (case.batch_size, case.seq_length + 1)
    stream = torch.randint(0, case.model.vocab_size, size, generator=generator)
    # A rate of its own for every sequence makes the counts differ between micro-batches and data-parallel ranks.
    rates = 2 * MASKED_SHARE * torch.rand(case.batch_size, 1, generator=generator)
    mask = torch.rand(case.batch_size, case.seq_length, generator=generator) >= rates
    mask[-1, -1] &= not mask.all()  # of a batch of a few tokens all may count, which hides what is divided by how many
    return _with_tokens(_shaped(case, stream, mask, generator), wanted_tokens(case), generator)


def evaluated(case: Case) -> Batch:
    """What is evaluated between steps (validation.run.life): a batch that no step has, or of a file its first one again."""
    return make_batch(case, 0 if case.data is not None else case.training.steps)


def _shaped(case: Case, stream: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> Batch:
    """Tokens and what they predict, `stream` [batch, sequence + 1], as a batch of the case's shape."""
    shape = case.training.data_shape
    if shape in WITH_DOCUMENTS:
        ends = _random_ends(mask, generator)
        stream = torch.where(stream == END, (END + 1) % case.model.vocab_size, stream)
        mask[1:2] = False
        return _with_documents(case, torch.where(ends, END, stream), mask)
    if shape == PACKED_PADDED:
        mask[1:2] = False
        return _with_padded_documents(case, stream, mask, generator)
    if shape in WITH_PADDING:
        return _with_padding(case, stream, _random_lengths(mask, generator))
    # Copies: of one sequence both would be views of the same storage, which no file takes.
    return Batch(stream[:, :-1].clone(), stream[:, 1:].clone(), mask)


def _of_file(case: Case, path: str, step: int) -> Batch:
    """The batch of a file's documents. Every token counts in the loss, but for what its shape leaves out."""
    documents = tokens.taken(case, Path(path))
    if case.training.data_shape in WITH_PADDING:
        own = documents[step * case.batch_size : (step + 1) * case.batch_size]
        width = case.seq_length + 1
        stream = torch.tensor([[*document, *(END,) * (width - len(document))] for document in own])
        if case.training.data_shape == LEFT_PADDED:
            moved = [min(case.seq_length, len(document)) for document in own]
            stream = torch.stack([row.roll(case.seq_length - length) for row, length in zip(stream, moved, strict=True)])
        lengths = torch.tensor([[min(case.seq_length, len(document))] for document in own])
        return _with_padding(case, stream, lengths)
    stream = torch.tensor(tokens.stream(case, documents, step))
    mask = torch.ones(case.batch_size, case.seq_length, dtype=torch.bool)
    if case.training.data_shape in WITH_DOCUMENTS:
        return _with_documents(case, stream, mask)
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


def _random_ends(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Where documents end, [batch, sequence + 1], for a mask of [batch, sequence].

    In the middle, where the parts of context and sequence parallelism meet, one document ends. In every other sequence a
    document of one token follows it, in the others one begins the sequence. The last sequence ends with a document's end.
    """
    sequences, length = mask.shape
    ends = torch.rand(sequences, length + 1, generator=generator) < DOCUMENTS_A_SEQUENCE / length
    ends[:, length // 2 - 1] = True
    ends[0::2, length // 2] = True
    ends[1::2, 0] = True
    ends[-1, length - 1] = True
    return ends


def _with_documents(case: Case, stream: torch.Tensor, mask: torch.Tensor) -> Batch:
    """The stream in documents that END ends; what END itself predicts does not count in the loss."""
    inputs = stream[:, :-1].clone()
    ended = inputs == END
    documents = ended.cumsum(1) - ended.long()
    positions = own_positions(documents) if case.training.data_shape == PACKED else None
    return Batch(inputs, stream[:, 1:].clone(), mask & ~ended, documents, positions=positions)


def _with_padded_documents(case: Case, stream: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> Batch:
    """Packed documents that END ends, with END behind each up to where the next begins; what END predicts does not count.

    The first document of a sequence has one token, the last has no padding.
    """
    stream = torch.where(stream == END, (END + 1) % case.model.vocab_size, stream)[:, :-1].clone()
    documents, real = torch.zeros_like(stream), torch.zeros_like(mask)
    for row in range(len(stream)):
        ends = regions(case, row)
        for number, (start, stop) in enumerate(itertools.pairwise((0, *ends))):
            length = int(torch.randint(1, stop - start + 1, (1,), generator=generator))
            length = 1 if number == 0 else stop - start if stop == case.seq_length else length
            documents[row, start:stop], real[row, start : start + length] = number, True
            stream[row, start + length - 1 : stop] = END
    labels = torch.nn.functional.pad(stream[:, 1:], (0, 1), value=END)
    return Batch(stream, labels, mask & (stream != END), documents, real, own_positions(documents))


def _random_lengths(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """How many tokens each sequence has, [batch, 1].

    The first has no padding. The last has a quarter of the length, so that ranks that share a sequence hold padding alone.
    """
    sequences, length = mask.shape
    lengths = torch.randint(length // 4, length + 1, (sequences, 1), generator=generator)
    lengths[-1], lengths[0] = length // 4, length
    return lengths


def _with_padding(case: Case, stream: torch.Tensor, lengths: torch.Tensor) -> Batch:
    """One document of these lengths a sequence, and END behind it, or before it; all that is no padding counts in the loss.

    Behind a document comes END, which its last token predicts.
    """
    length, left = stream.shape[1] - 1, case.training.data_shape == LEFT_PADDED
    index = torch.arange(length + 1).expand_as(stream)
    begins = length - lengths if left else torch.zeros_like(lengths)
    inside = (index >= begins) & (index < begins + lengths)
    stream = torch.where(inside | (lengths == length), stream, END)
    real = inside[:, :-1].clone()
    # Padding before a document must not be attended to; behind it nothing attends to it.
    documents = real.long() if left else None
    return Batch(stream[:, :-1].clone(), stream[:, 1:].clone(), real.clone(), documents, real)
