"""Data shapes: what the sequences of a batch hold (docs/data.md). No torch.

`full` has one document in each sequence, from its first position to its last. `documents` has several in each: a token ends a
document, positions are counted from where a document begins, no position attends to another document, and the loss of a
document's last token does not count. That is what Megatron-LM's --reset-position-ids, --reset-attention-mask and
--eod-mask-loss make of a sequence. `padded` has one document, shorter than the sequence, and padding behind it; `left-padded`
has the padding before it. Padding does not count: neither in the loss nor in balancing losses nor in the experts' loads.
"""

from __future__ import annotations

from collections.abc import Callable

from validation.case.case import Case

FULL, DOCUMENTS, PADDED, LEFT_PADDED = "full", "documents", "padded", "left-padded"
WITH_PADDING = (PADDED, LEFT_PADDED)
END = 1
"""The token that ends a document, and pads: eos_token_id of DeepSeek-V3's config.json, which its tokenizer pads with."""
SHORTEST = 8
"""Tokens of a sequence that has several documents, one of them of a single token."""


def sequences_have_room(case: Case) -> str | None:
    """There is room for several documents, or for padding."""
    shape = case.training.data_shape
    if shape == FULL or case.seq_length >= SHORTEST:
        return None
    what = "several documents" if shape == DOCUMENTS else "a document and padding"
    return f"seq_length {case.seq_length} has no room for {what}; --seq-length {SHORTEST} works"


def next_tokens_are_of_the_same_document(case: Case) -> str | None:
    """megatron-core's MTP layers know neither where documents end nor, until 0.17, what is padding."""
    shape = case.training.data_shape
    if shape == FULL or not case.model.mtp_layers:
        return None
    why = (
        "take a document's last next token from the next document, which HuggingFace does not"
        if shape == DOCUMENTS
        else "count padding in loads and balancing losses up to 0.17"
    )
    return f"{case.arrangement}: Megatron-Core's MTP layers {why}; leave out +mtp, or +{shape}"


def balanced_with_padding(case: Case) -> str | None:
    """Balancing losses over real tokens, as far as megatron-core's are means over them."""
    training = case.training
    if training.data_shape not in WITH_PADDING or training.balancing == "none":
        return None
    if training.loss == "token":
        return (
            f"{case.arrangement}: with a loss per token Megatron-Core weighs the balancing loss of each micro-batch by its "
            f"real tokens, so that it is no mean over micro-batches; {case.arrangement}+mean works"
        )
    if training.balancing == "seq_aux_loss" and case.micro_batch_size > 1:
        return (
            f"{case.arrangement}: Megatron-Core balances the sequences of a micro-batch as if all had its average number of "
            "real tokens; --micro-batch-size 1 works"
        )
    if (training.balancing == "z_loss" or training.z_coefficient) and case.layout.tp * case.layout.cp > 1:
        return (
            f"{case.arrangement}: Megatron-Core takes the mean of each rank's mean z-loss, and ranks that share a sequence "
            "have different numbers of real tokens; tp1 and cp1 work"
        )
    return None


RULES: tuple[Callable[[Case], str | None], ...] = (
    sequences_have_room,
    next_tokens_are_of_the_same_document,
    balanced_with_padding,
)
