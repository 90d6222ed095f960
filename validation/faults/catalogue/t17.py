"""Token ids at the end of the first vocabulary shard are held by nobody.

TTrace's wrong embedding mask.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="token ids at the end of the first vocabulary shard are held by nobody",
    sources=("https://arxiv.org/abs/2506.09280",),
    first="embedding",
    layouts=("tp2",),
)


def built(case: Case, model: Any) -> None:
    embedding = model[0].embedding.word_embeddings
    if embedding.vocab_start_index == 0:
        embedding.vocab_end_index -= 4
