"""Core attention ignores the mask of documents.

What Transformer Engine does when it is asked for a causal mask and gets another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

_ANOTHER = (
    "Transformer Engine has an attention of its own, and the fused one does so without a fault "
    "(docs/findings/mask-ignored-by-transformer-engine.md)"
)

FAULT = Fault(
    plugin=__name__,
    group="data",
    does="core attention ignores the mask of documents",
    sources=(f"{CORE}/issues/2357",),
    first="layers.0.attention.core",
    cause="option +documents",
    needs="+documents",
    layouts=("single+documents",),
    absent=(("te", _ANOTHER),),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def forward(attention: Any, query: Any, key: Any, value: Any, mask: Any = None, *rest: Any, **keywords: Any) -> Any:
            return sound(attention, query, key, value, None, *rest, **keywords)

        return forward

    replace("validation.candidate.modules", "CoreAttention.forward", made)
