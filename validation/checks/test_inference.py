"""Prefill and decode, position by position, and the candidate's own forward pass without a cache."""

from __future__ import annotations

from validation.checks.marks import INFERS, everything_inferred, with_generation
from validation.checks.parity import Parity

SECTION = (72, "Inference")
MODES = (INFERS,)


def test_huggingface_agrees_with_itself(parity: Parity) -> None:
    """HuggingFace computes with its cache what it computes without: both may be the reference."""
    parity.witnesses_agree()


@everything_inferred
def test_inference(parity: Parity, name: str) -> None:
    """Every position of a phase is HuggingFace's, whether the candidate computed it with a cache or without."""
    parity.infers(name)


@with_generation
def test_greedy_tokens(parity: Parity, shape: str) -> None:
    """Behind each prompt the candidate would take the tokens that HuggingFace takes, near-ties aside."""
    parity.generates()
