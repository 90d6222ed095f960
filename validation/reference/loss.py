"""The loss of a step on the HuggingFace side."""

from __future__ import annotations

import torch
from torch.nn import functional

from validation.case.case import Case
from validation.case.vocabulary import is_masked
from validation.reference.batch import Batch
from validation.reference.divisor import by_targets
from validation.reference.sums import of_sequences


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross entropy of every position, [batch, sequence]."""
    losses = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return of_sequences(losses.view(labels.shape))


def of_words(case: Case, logits: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """The logits, [..., rows of the vocabulary], with `value` for its padding if the model masks that; else as they are."""
    if not is_masked(case):
        return logits
    rows = torch.arange(logits.shape[-1], device=logits.device)
    return logits.masked_fill(rows >= case.model.vocab_size, value)


def total(case: Case, losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of a step from its token losses, [batch, sequence]: over all positions that count, or as a mean of means.

    `mean` is what megatron-core computes without calculate_per_token_loss: each micro-batch's own mean, and of these the
    mean. Micro-batches are unbroken runs of sequences, and the same ones whatever the number of data-parallel ranks.
    """
    return _reduced(case, losses * batch.mask, batch)


def _reduced(case: Case, masked: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Losses that are 0 where they do not count, divided by what divides the main loss."""
    if case.training.loss == "token":
        return masked.sum() / batch.mask.sum()
    return (masked / _of_micro_batches(case, batch.mask).clamp(min=1)).sum() / (len(masked) // case.micro_batch_size)


def _of_micro_batches(case: Case, mask: torch.Tensor) -> torch.Tensor:
    """How many positions count in each sequence's micro-batch, [batch, 1]."""
    counts = mask.view(-1, case.micro_batch_size * case.seq_length).sum(1)
    return counts.repeat_interleave(case.micro_batch_size)[:, None]


def of_mtp_layer(case: Case, losses: torch.Tensor, mask: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of one MTP layer from its token losses and the mask of the targets that it has left, both [batch, sequence].

    By the report's formula a target weighs what it weighs in the main loss (validation.case.mtp). By targets, the share of each
    micro-batch in that is multiplied by its tokens in the main loss, and divided by its targets in this layer. That is what
    megatron-core computes with a mean of means, and from 0.17 on with a loss per token, too.
    """
    if by_targets(case):
        counted, left = (_of_micro_batches(case, tensor) for tensor in (batch.mask, mask))
        losses = losses * counted / left.clamp(min=1)
    return _reduced(case, losses * mask, batch)
