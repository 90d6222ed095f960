"""Data shapes: what the sequences of a batch hold (docs/data.md). No torch.

`full` has one document in each sequence, from its first position to its last. `documents` has several in each: a token ends a
document, positions are counted from where a document begins, no position attends to another document, and the loss of a
document's last token does not count. That is what Megatron-LM's --reset-position-ids, --reset-attention-mask and
--eod-mask-loss make of a sequence. `packed` has the same documents, and megatron-core is told where each begins in place of a
mask (PackedSeqParams, format thd). `packed-padded` has packed documents with padding behind each, up to a multiple of ALIGNED,
which is what context parallelism needs of packed documents. `padded` has one document, shorter than the sequence, and padding
behind it; `left-padded` has the padding before it. Padding does not count: neither in the loss nor in balancing losses nor in
the experts' loads.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from validation.case.case import Case

FULL, DOCUMENTS, PACKED, PADDED, LEFT_PADDED = "full", "documents", "packed", "padded", "left-padded"
PACKED_PADDED = "packed-padded"
WITH_DOCUMENTS = (DOCUMENTS, PACKED)
WITH_PADDING = (PADDED, LEFT_PADDED)
"""One document a sequence."""
HAVE_PADDING = (*WITH_PADDING, PACKED_PADDED)
ARE_PACKED = (PACKED, PACKED_PADDED)
ALIGNED = 8
"""Tokens of which a padded document among packed ones has a multiple: two parts for each of four context-parallel ranks."""
END = 1
"""The token that ends a document, and pads: eos_token_id of DeepSeek-V3's config.json, which its tokenizer pads with."""
BEGIN = 0
"""The token that begins a document in DeepSeek-V3's config.json (bos_token_id)."""
WIDEST = 16
"""The largest tensor-parallel degree whose vocabulary shards have their first and last token in every batch."""
NEVER_CHOSEN = 2.0
"""What the expert bias of an expert without tokens is lower by than every other's: scores lie between 0 and 1."""
SHORTEST = 8
"""Tokens of a sequence that has several documents, one of them of a single token."""


def shard_ends(vocabulary: int, tp: int) -> tuple[int, ...]:
    """The first and the last token of each of `tp` shards of a vocabulary; none if they are not equal."""
    if vocabulary % tp:
        return ()
    size = vocabulary // tp
    return tuple(sorted({end for shard in range(tp) for end in (shard * size, (shard + 1) * size - 1)}))


def wanted_tokens(case: Case) -> tuple[int, ...]:
    """The tokens that every batch has, as tokens and as targets that count: special ones, and the ends of vocabulary shards."""
    size, heads = case.model.vocab_size, case.model.num_attention_heads
    ends = (end for tp in range(1, WIDEST + 1) if heads % tp == 0 for end in shard_ends(case.model.vocabulary_rows, tp))
    return tuple(sorted({BEGIN, END, size - 1, *ends} & set(range(size))))


def has_an_idle_expert(case: Case) -> bool:
    """Whether a preset's weights have, in each layer, one expert that no token chooses: with every shape but `full`."""
    return case.training.data_shape != FULL and case.model.n_routed_experts > case.model.num_experts_per_tok


def regions(case: Case, sequence: int) -> tuple[int, ...]:
    """Where the padded documents of a packed sequence of the batch end, the same in every step.

    One ends in the middle, where the parts of sequence parallelism meet.
    """
    middle = case.seq_length // 2 // ALIGNED * ALIGNED
    chance = random.Random(f"{case.seed}/{sequence}")
    inside = {place for place in range(ALIGNED, case.seq_length, ALIGNED) if chance.random() < SHARE_OF_ENDS}
    return tuple(sorted({*inside, middle, case.seq_length} - {0}))


SHARE_OF_ENDS = 0.3
"""Of the places where a padded document may end."""


def tokens_end_before_padding(case: Case) -> bool:
    """Whether megatron-core is told where the tokens of padded documents end, beside where their padding ends.

    Transformer Engine's attention leaves padding out then, and what it returns there is not defined. megatron-core's MTP layers
    take tokens from other places (docs/findings/mtp-misplaces-padded-documents.md). Told of the padding's ends alone, as verl
    and NeMo-RL tell it, both take padding for tokens, and so does the reference.
    """
    return not (case.uses_te or case.model.mtp_layers)


def sequences_have_room(case: Case) -> str | None:
    """There is room for several documents, or for padding."""
    shape = case.training.data_shape
    if shape == FULL or case.seq_length >= SHORTEST:
        return None
    what = "several documents" if shape in (*WITH_DOCUMENTS, PACKED_PADDED) else "a document and padding"
    return f"seq_length {case.seq_length} has no room for {what}; --seq-length {SHORTEST} works"


def balanced_with_padding(case: Case) -> str | None:
    """Balancing losses over real tokens, as far as megatron-core's are means over them."""
    training = case.training
    if training.data_shape not in HAVE_PADDING or training.balancing == "none":
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


def one_sequence_is_packed(case: Case) -> str | None:
    """What megatron-core has of packed sequences, and Plumbline compares: one a micro-batch, each on its ranks whole."""
    if case.training.data_shape not in ARE_PACKED:
        return None
    if case.micro_batch_size > 1:
        return (
            f"{case.arrangement}: Megatron-Core takes one packed sequence in a micro-batch and micro_batch_size is "
            f"{case.micro_batch_size}; --micro-batch-size 1 works"
        )
    if case.layout.cp > 1 and case.training.data_shape == PACKED:
        return (
            f"{case.arrangement}: context parallelism cuts each packed document into equal parts, for which it must be padded; "
            f"{case.layout.name}+packed-padded works"
        )
    if case.implementation == "local-stock":
        return f"{case.arrangement}: Megatron-Core's own core attention has no packed sequences; --implementation local works"
    return None


def padded_documents_fit(case: Case) -> str | None:
    """Each document of a packed sequence is padded to ALIGNED tokens, of which every rank has two equal parts."""
    if case.training.data_shape != PACKED_PADDED:
        return None
    if case.seq_length % ALIGNED or case.seq_length < 2 * ALIGNED:
        sizes = max(2 * ALIGNED, case.seq_length // ALIGNED * ALIGNED)
        return f"+{PACKED_PADDED} pads documents to multiples of {ALIGNED}; --seq-length {sizes} works"
    if ALIGNED % (2 * case.layout.cp):
        return (
            f"+{PACKED_PADDED} pads documents to multiples of {ALIGNED}, which cp{case.layout.cp} cannot cut; cp2 and cp4 work"
        )
    return f"+{PACKED_PADDED} takes no file of tokens; leave out --data, or take +packed" if case.data else None


RULES: tuple[Callable[[Case], str | None], ...] = (
    sequences_have_room,
    balanced_with_padding,
    one_sequence_is_packed,
    padded_documents_fit,
)
