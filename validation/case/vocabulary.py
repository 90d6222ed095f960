"""The vocabulary padded to a multiple, as Megatron-LM pads it so that tensor parallelism can cut it (docs/data.md). No torch.

`+vocab128` behind a layout is --make-vocab-size-divisible-by 128: embedding and head get rows up to a multiple of 128 x tp. No
token stands for the rows behind the vocabulary. Megatron-Core's loss takes them for words like all others, and so does the
reference, a HuggingFace model of as many rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.layout import Layout
from validation.case.model import Model
from validation.case.plural import many
from validation.case.training import Training

MASKED = "masked"
"""Of Training.padding_logits."""


def rows(vocabulary: int, multiple: int, tp: int) -> int:
    """Rows of embedding and head: the vocabulary up to a multiple of `multiple` x tp, as Megatron-LM pads it."""
    step = multiple * tp
    return math.ceil(vocabulary / step) * step


def padded(model: Model, layout: Layout, training: Training) -> Model:
    """The model with the padding that the word of a layout asks for. Raises UsageError if it has been given other rows."""
    if not training.vocab_multiple:
        return model
    wanted = rows(model.vocab_size, training.vocab_multiple, layout.tp)
    if model.padded_vocab_size not in (None, wanted):
        raise UsageError(
            f"+vocab{training.vocab_multiple} with tp{layout.tp} pads the vocabulary to {many(wanted, 'row')} and --set "
            f"padded_vocab_size={model.padded_vocab_size} to {model.padded_vocab_size}; give one of them"
        )
    return replace(model, padded_vocab_size=wanted)


def padding_is_behind_the_vocabulary(case: Case) -> str | None:
    """There are at least as many rows as tokens."""
    size, there = case.model.vocab_size, case.model.padded_vocab_size
    if there is None or there >= size:
        return None
    return f"padded_vocab_size {there} is less than vocab_size {size}; give {size} or more, or +vocab1 behind the layout"


def is_masked(case: Case) -> bool:
    """Whether the model under test masks the logits of padding, which then count in no loss."""
    return case.training.padding_logits == MASKED


def there_is_padding_to_mask(case: Case) -> str | None:
    """A model masks the logits of padding if it has any, and where they are compared."""
    if not is_masked(case):
        return None
    size = case.model.vocab_size
    if case.model.vocabulary_rows == size:
        return (
            f"+masked-logits is about the padding of a vocabulary, and {case.arrangement} has none; "
            f"{case.layout.name}+vocab128+masked-logits has"
        )
    if case.isolated:
        return "--isolated gives each module the logits of the reference, which have no mask; leave out +masked-logits"
    if case.training.inference != "none":
        return "+masked-logits is about the loss, and inference has none; leave it out"
    return None


RULES: tuple[Callable[[Case], str | None], ...] = (padding_is_behind_the_vocabulary, there_is_padding_to_mask)
