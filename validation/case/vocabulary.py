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
from validation.case.training import Training


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
            f"+vocab{training.vocab_multiple} with tp{layout.tp} pads the vocabulary to {wanted} rows and --set "
            f"padded_vocab_size={model.padded_vocab_size} to {model.padded_vocab_size}; give one of them"
        )
    return replace(model, padded_vocab_size=wanted)


def padding_is_behind_the_vocabulary(case: Case) -> str | None:
    """There are at least as many rows as tokens."""
    size, there = case.model.vocab_size, case.model.padded_vocab_size
    if there is None or there >= size:
        return None
    return f"padded_vocab_size {there} is less than vocab_size {size}; give {size} or more, or +vocab1 behind the layout"


RULES: tuple[Callable[[Case], str | None], ...] = (padding_is_behind_the_vocabulary,)
