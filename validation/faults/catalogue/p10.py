"""The copy of the embedding on the last stage keeps its own gradient.

The layer of multi-token prediction has one.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="pipeline",
    does="the copy of the embedding on the last stage keeps its own gradient",
    sources=(f"{CORE}/issues/844",),
    first="gradients/model.embed_tokens.weight",
    kind="backward",
    layouts=("pp2+mtp",),
)


def configure(case: Case, config: Any) -> None:
    replace(
        "megatron.core.distributed.finalize_model_grads",
        "_allreduce_word_embedding_grads",
        lambda sound: lambda *given, **keywords: None,
    )
