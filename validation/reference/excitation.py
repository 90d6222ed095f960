"""What of a batch makes faults show, and what it lacks: docs/data.md lists it.

A fault shows only in data that reach it. A mask of the vocabulary that is wrong at the last token of a shard needs that token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from validation.case.case import Case
from validation.case.data import (
    BEGIN,
    END,
    FULL,
    HAVE_PADDING,
    NEVER_CHOSEN,
    PACKED_PADDED,
    WITH_DOCUMENTS,
    WITH_PADDING,
    has_an_idle_expert,
    shard_ends,
)
from validation.case.parameters import parameters
from validation.reference.batch import Batch, own_positions
from validation.reference.weights import made

SEVERAL = (*WITH_DOCUMENTS, PACKED_PADDED)
EVERY = (FULL, *SEVERAL, *WITH_PADDING)


@dataclass(frozen=True)
class Excited:
    """One thing that data should hold: whether they do, in numbers, and the shapes whose data must."""

    what: str
    there: bool
    detail: str
    shapes: tuple[str, ...] = EVERY


def excited(case: Case, batch: Batch) -> tuple[Excited, ...]:
    """Everything that is looked for in the batch of a case."""
    found = [*_tokens(case, batch), *_counts(case, batch), *_documents(case, batch), *_padding(case, batch)]
    return (*found, _idle_expert(case)) if case.model.moe_layers else tuple(found)


def lacking(case: Case, batch: Batch) -> list[str]:
    """What the case's shape must have, and the batch has not."""
    shape = case.training.data_shape
    return [one.what for one in excited(case, batch) if not one.there and shape in one.shapes]


def _tokens(case: Case, batch: Batch) -> Iterator[Excited]:
    """What of the vocabulary there is."""
    tokens, targets = set(batch.tokens.unique().tolist()), set(batch.labels[batch.mask].unique().tolist())
    shards, size = case.layout.tp, case.model.vocab_size
    ends = sorted({end for end in shard_ends(case.model.vocabulary_rows, shards) if end < size} | {size - 1})
    which = f"first and last token of each of the {shards} vocabulary shards" if shards > 1 else "first and last token of all"
    for where, there in (("among the tokens", tokens), ("as a target that counts", targets)):
        yield Excited(f"{which}, {where}", set(ends) <= there, f"{len(there.intersection(ends))} of {len(ends)}")
    special = {BEGIN, END} & set(range(size))
    yield Excited("special tokens (begin, end)", special <= tokens, f"{len(special & tokens)} of {len(special)}")


def _counts(case: Case, batch: Batch) -> Iterator[Excited]:
    """Where the loss counts."""
    left_out = int((~batch.mask).sum())
    yield Excited("positions that do not count in the loss", left_out > 0, f"{left_out} of {batch.mask.numel()}")
    by_micro_batch = batch.mask.view(-1, case.micro_batch_size * case.seq_length).sum(1).tolist()
    what = "micro-batches with different numbers of tokens that count"
    yield Excited(what, len(set(by_micro_batch)) > 1 or len(by_micro_batch) == 1, _shown(by_micro_batch))
    silent = int((batch.mask.sum(1) == 0).sum())
    yield Excited("a sequence without loss", silent > 0, f"{silent} of {len(batch.mask)}", SEVERAL)


def _shown(counts: list[int]) -> str:
    return ", ".join(map(str, counts[:4])) + (", ..." if len(counts) > 4 else "")


def _documents(case: Case, batch: Batch) -> Iterator[Excited]:
    """Where documents begin and how long they are."""
    number = batch.documents if case.training.data_shape in SEVERAL else None
    begins = torch.zeros_like(batch.mask) if number is None else own_positions(number) == 0
    several = int(begins[:, 1:].sum())
    yield Excited("documents that begin inside a sequence", several > 0, str(several), SEVERAL)
    padding = torch.zeros_like(begins) if batch.real is None else ~batch.real
    single = int((begins[:, :-1] & (begins | padding)[:, 1:]).sum())
    yield Excited("documents of one token", single > 0, str(single), SEVERAL)
    middle = int(begins[:, case.seq_length // 2].sum())
    what = "documents that begin in the middle, where the parts of ranks meet"
    yield Excited(what, middle > 0, str(middle), SEVERAL)


def _padding(case: Case, batch: Batch) -> Iterator[Excited]:
    """How much padding there is, and whether a rank of those that share a sequence holds nothing else."""
    padding = torch.zeros_like(batch.mask) if batch.real is None else ~batch.real
    yield Excited("padding", bool(padding.any()), f"{int(padding.sum())} of {padding.numel()}", HAVE_PADDING)
    whole = int((padding.sum(1) == 0).sum()) if padding.any() else 0
    yield Excited("sequences without padding beside it", whole > 0, f"{whole} of {len(padding)}", WITH_PADDING)
    parts = case.layout.tp if case.layout.uses_sequence_parallel else 1
    if parts > 1:
        empty = sum(bool(part.all(1).any()) for part in padding.chunk(parts, dim=1))
        what = f"a part of a sequence, of {parts}, that is padding alone"
        yield Excited(what, empty > 0, f"{empty} of {parts}", WITH_PADDING)


def _idle_expert(case: Case) -> Excited:
    """Whether some expert gets no token, by the weights that a preset gets: no score makes up for its bias."""
    what = "an expert without tokens"
    if case.hf_model_path is not None:
        return Excited(what, False, "a checkpoint's own weights", ())
    there = has_an_idle_expert(case)
    if there:
        biases = [made(case, one) for one in parameters(case.model).values() if one.name.endswith("_bias")]
        there = all(bool(bias.sort().values[:2].diff() >= NEVER_CHOSEN - 1e-6) for bias in biases)
    return Excited(what, there, "1 a layer" if there else "0", (*SEVERAL, *WITH_PADDING))
