"""The expert bias is rounded to bfloat16 where it is added to the scores.

The parameter stays what the checkpoint has. In a case in bfloat16 the choices that it changes look like near-ties of scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, HF, Fault
from validation.faults.inject import replace, rounded

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="the expert bias is rounded to bfloat16 where it is added to the scores",
    sources=(
        f"{CORE}/issues/1482",
        f"{HF}/pull/42580",
    ),
    first="layers.{moe}.moe.router.experts",
    precision="bf16",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def routed(*given: Any, **keywords: Any) -> Any:
            return sound(*given, **keywords | {"expert_bias": rounded(keywords["expert_bias"])})

        return routed

    replace("megatron.core.transformer.moe.router", "topk_routing_with_score_function", made)
