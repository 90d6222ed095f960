"""Gathered logits are taken for a part of the vocabulary.

The logits themselves are right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="tensor parallel",
    does="gathered logits are taken for a part of the vocabulary",
    sources=(f"{CORE}/issues/7452",),
    first="token_loss",
    layouts=("tp2",),
    needs="tp",
)


def configure(case: Case, config: Any) -> None:
    from megatron.core.tensor_parallel.mappings import gather_from_tensor_model_parallel_region

    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda logits, labels, *rest: sound(gather_from_tensor_model_parallel_region(logits), labels, *rest)

    replace("megatron.core.tensor_parallel", "vocab_parallel_cross_entropy", made)
