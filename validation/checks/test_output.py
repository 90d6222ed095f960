"""The end of the model: final norm, logits, loss."""

from __future__ import annotations

from validation.checks.parity import Parity

SECTION = (70, "Final Output")


def test_final_norm_output(parity: Parity) -> None:
    """The last norm, on the last pipeline stage."""
    parity.agrees("final_norm")


def test_logits(parity: Parity) -> None:
    """Every logit of every position, in the rank that holds its part of the vocabulary."""
    parity.agrees("logits")


def test_token_losses(parity: Parity) -> None:
    """Cross entropy over the cut vocabulary, position by position."""
    parity.agrees("token_loss")


def test_loss(parity: Parity) -> None:
    """The mean over the positions that count, in all micro-batches and data-parallel ranks."""
    parity.agrees("loss")
