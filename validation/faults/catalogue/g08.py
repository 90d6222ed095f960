"""Each data-parallel rank moves the expert bias by the loads that it sees itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import replace

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="each data-parallel rank moves the expert bias by the loads that it sees itself",
    sources=(f"{CORE}/pull/4782",),
    first="steps/1/value/model.layers.{moe}.mlp.gate.e_score_correction_bias",
    kind="step",
    layouts=("dp2",),
    steps=1,
    cause="data parallelism",
    needs="dp",
)


def configure(case: Case, config: Any) -> None:
    def made(sound: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tokens, bias, rate: bias + (tokens.mean(-1, keepdim=True) - tokens).sign() * rate

    replace("megatron.core.distributed.finalize_model_grads", "get_updated_expert_bias", made)
