"""Ranks count their part of a padded vocabulary from the tokens, not from the rows.

With 129 tokens in 136 rows the second of two ranks holds the rows from 68 on. Here it takes the token 64 for its first row, as
129 // 2 says. Embedding and head must agree on the padding: vLLM's did not.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="ranks count their part of a padded vocabulary from the tokens, not from the rows",
    sources=("https://github.com/vllm-project/vllm/pull/20843",),
    first="embedding",
    layouts=("tp2+vocab4",),
    needs="tp",
    numbers=(("vocab_size", "129"),),
)


def built(case: Case, model: Any) -> None:
    if not hasattr(model[0], "embedding"):
        return
    embedding = model[0].embedding.word_embeddings
    rows, rank = embedding.num_embeddings_per_partition, embedding.vocab_start_index // embedding.num_embeddings_per_partition
    embedding.vocab_start_index = rank * (case.model.vocab_size // case.layout.tp)
    embedding.vocab_end_index = embedding.vocab_start_index + rows
