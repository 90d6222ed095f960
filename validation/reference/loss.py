"""The loss of a step on the HuggingFace side."""

from __future__ import annotations

import torch
from torch.nn import functional

from validation.case.case import Case
from validation.reference.batch import Batch
from validation.reference.divisor import by_targets


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross entropy of every position, [batch, sequence]."""
    losses = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return losses.view(labels.shape)


def total(case: Case, losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of a step from its token losses, [batch, sequence]: over all positions that count, or as a mean of means.

    `mean` is what megatron-core computes without calculate_per_token_loss: each micro-batch's own mean, and of these the
    mean. Micro-batches are unbroken runs of sequences, and the same ones whatever the number of data-parallel ranks.
    """
    masked = losses * batch.mask
    if case.training.loss == "token":
        return masked.sum() / batch.mask.sum()
    sums = masked.view(-1, case.micro_batch_size * case.seq_length).sum(1)
    counts = batch.mask.view(-1, case.micro_batch_size * case.seq_length).sum(1)
    return (sums / counts.clamp(min=1)).mean()


def of_mtp_layer(case: Case, losses: torch.Tensor, mask: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The loss of one MTP layer from its token losses, [batch, sequence left], and the mask of the targets that it has left.

    By the report's formula it is the sum over the targets, divided by the tokens of the main loss. Otherwise each micro-batch's
    sum is multiplied by its tokens in the main loss and divided by its targets in this layer (megatron-core from 0.17 on).
    """
    masked = losses * mask
    if not by_targets(case):
        return masked.sum() / batch.mask.sum()
    sums, left, counted = (
        tensor.reshape(-1, case.micro_batch_size * tensor.shape[1]).sum(1) for tensor in (masked, mask, batch.mask)
    )
    return (sums * counted / left.clamp(min=1)).sum() / batch.mask.sum()
