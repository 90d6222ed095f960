"""The output layer is given the embedding's weights.

As in a model whose embeddings are tied; DeepSeek-V3's are not.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import Loaded, after_loading

FAULT = Fault(
    plugin=__name__,
    group="conversion",
    does="the output layer is given the embedding's weights",
    sources=(f"{CORE}/blob/core_v0.16.1/megatron/core/models/gpt/gpt_model.py",),
    first="weights/lm_head.weight",
)


def built(case: Case, model: Any) -> None:
    def tied(loaded: Loaded) -> None:
        loaded.part("lm_head.weight").copy_(loaded.part("model.embed_tokens.weight"))

    after_loading(tied)
