"""A checkpoint holds AdamW's moments in bfloat16."""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault
from validation.faults.inject import after_resuming, rounded, states

FAULT = Fault(
    plugin=__name__,
    group="precision",
    does="a checkpoint holds AdamW's moments in bfloat16",
    sources=(
        "https://github.com/vllm-project/speculators/pull/899",
        "https://github.com/TensorAuto/OpenTau/issues/184",
    ),
    first="steps/2/exp_avg/model.embed_tokens.weight",
    kind="step",
    layouts=("single+step-resume-step",),
    cause="option +step-resume-step",
    precision="fp32",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_rounded)


def _rounded(optimizer: Any) -> None:
    for state in states(optimizer):
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].copy_(rounded(state[name]))
