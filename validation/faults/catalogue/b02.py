"""Each document sees the last token of the one before it.

The mask is cut one token late, at the token behind the end of a document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="each document sees the last token of the one before it",
    sources=("https://github.com/swiss-ai/Megatron-LM/pull/40",),
    first="layers.0.attention.core",
    cause="option +documents",
    needs="+documents",
    layouts=("single+documents",),
    without_bugs=True,
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def of_others(documents: Any) -> Any:
            import torch

            found = sound(documents)
            before = torch.nn.functional.pad(documents[:, 1:] != documents[:, :-1], (0, 1))  # ends of documents
            return found & ~(before[:, None, None, :] & (documents[:, None, :, None] == documents[:, None, None, :] + 1))

        return of_others

    replace("validation.candidate.step", "other_documents", made)
