"""Of a resumed chain of optimizers the first alone is loaded.

The experts' moments begin with zero.
"""

from __future__ import annotations

from typing import Any

from validation.case.case import Case
from validation.faults.fault import CORE, Fault
from validation.faults.inject import after_resuming

FAULT = Fault(
    plugin=__name__,
    group="expert parallel",
    does="of a resumed chain of optimizers the first alone is loaded",
    sources=(f"{CORE}/issues/761",),
    first="steps/2/exp_avg/model.layers.{moe}.mlp.experts.gate_proj.weight",
    kind="step",
    layouts=("ep2+step-resume-step",),
    cause="option +step-resume-step",
    steps=2,
)


def configure(case: Case, config: Any) -> None:
    after_resuming(_first_alone)


def _first_alone(optimizer: Any) -> None:
    for state in (state for part in optimizer.parts[1:] for state in part.optimizer.state.values()):
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()
