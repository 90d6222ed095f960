"""Data shapes: what the sequences of a batch hold (docs/data.md). No torch.

`full` has one document in each sequence, from its first position to its last. `documents` has several in each: a token ends a
document, positions are counted from where a document begins, no position attends to another document, and the loss of a
document's last token does not count. That is what Megatron-LM's --reset-position-ids, --reset-attention-mask and
--eod-mask-loss make of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable

from validation.case.case import Case

FULL, DOCUMENTS = "full", "documents"
END = 1
"""The token that ends a document: eos_token_id of DeepSeek-V3's config.json."""
SHORTEST = 8
"""Tokens of a sequence that has several documents, one of them of a single token."""


def sequences_hold_several_documents(case: Case) -> str | None:
    """There is room for several documents."""
    if case.training.data_shape != DOCUMENTS or case.seq_length >= SHORTEST:
        return None
    return f"seq_length {case.seq_length} has no room for several documents; --seq-length {SHORTEST} works"


def next_tokens_are_of_the_same_document(case: Case) -> str | None:
    """megatron-core's MTP layers take the next token from the next document, unless its sequences are packed."""
    if case.training.data_shape != DOCUMENTS or not case.model.mtp_layers:
        return None
    return (
        f"{case.arrangement}: Megatron-Core's MTP layers take a document's last next token from the next document, which "
        "HuggingFace does not; leave out +mtp, or +documents"
    )


RULES: tuple[Callable[[Case], str | None], ...] = (sequences_hold_several_documents, next_tokens_are_of_the_same_document)
