"""The logits of a prompt are those of its last token but one.

Of the source only an excerpt was read. Whether it describes this very bug is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="inference",
    does="the logits of a prompt are those of its last token but one",
    sources=(f"{CORE}/pull/7061",),
    first="greedy/tokens",
    layouts=("single+static",),
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        def wrong(self: Any, *given: Any, **keywords: Any) -> Any:
            context, hidden = keywords.get("inference_context"), keywords["hidden_states"]
            if context is not None and context.materialize_only_last_token_logits and hidden.shape[0] > 1:
                keywords["hidden_states"] = hidden.roll(1, 0)
            return sound(self, *given, **keywords)

        return wrong

    replace("megatron.core.models.gpt", "GPTModel._postprocess", made)
