"""After an evaluation the model stays in eval mode.

Its routers have no balancing loss any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validation.case.case import Case
from validation.faults.fault import Fault

FAULT = Fault(
    plugin=__name__,
    group="optimizer",
    does="after an evaluation the model stays in eval mode",
    sources=(
        "https://github.com/fartashf/vsepp/issues/4",
        "https://github.com/tk-rusch/coRNN/issues/1",
    ),
    first="steps/2/gradient_norm",
    kind="step",
    layouts=("single+step-evaluate-step+seqaux+mean",),
    cause="option +step-evaluate-step, option +seqaux",
    steps=2,
)


def wrapped(case: Case, model: Any) -> None:
    for chunk in model:
        chunk.train = _once(chunk.train)


def _once(sound: Callable[..., Any]) -> Callable[..., Any]:
    """Training mode is left by the first evaluation for ever."""
    modes: list[bool] = []

    def train(mode: bool = True) -> Any:
        modes.append(mode)
        return sound(mode and False not in modes)

    return train
