"""The formulas of learning rate and weight decay, after Megatron-LM's documentation of its arguments.

`done` counts the optimizer steps that have been taken: the first step has the numbers of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from validation.case.parameters import Parameter
from validation.case.schedule import CONSTANT, DECOUPLED, Schedule

_FALLING: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "linear": lambda part: 1 - part,
        "cosine": lambda part: (1 + math.cos(math.pi * part)) / 2,
        "exponential": lambda part: 2 ** (1 - part) - 1,
        "minus_sqrt": lambda part: 1 - math.sqrt(part),
    }
)
"""How much of the way from the smallest rate to the largest is left when `part` of the time has passed, both from 0 to 1.

Linear and cosine: SGDR (arXiv 1608.03983, equation 5) without restarts. Exponential and 1 - sqrt: WSD, after MiniCPM
(arXiv 2404.06395, section 4) and arXiv 2405.18392, section 3.
"""


def learning_rate(schedule: Schedule, done: int, *, decoupled: bool = False) -> float:
    """The rate of the step after `done`, of what has rates of its own if `decoupled`."""
    largest, least = (schedule.max_lr, schedule.min_lr) if not decoupled else schedule.decoupled or (math.nan, math.nan)
    warmup, end = schedule.warmup, schedule.decay_steps
    if warmup and done <= warmup:
        return schedule.init_lr + (largest - schedule.init_lr) * done / warmup
    if schedule.style == CONSTANT:
        return largest
    if done > end:
        return least
    if schedule.style == "inverse-square-root":
        return max(least, largest * math.sqrt(max(warmup, 1) / max(done, 1)))
    if schedule.style != "WSD":
        return least + (largest - least) * _FALLING[schedule.style]((done - warmup) / (end - warmup))
    last = schedule.wsd_steps or 1
    part = max(0.0, (done - (end - last)) / last)
    return least + (largest - least) * _FALLING[schedule.wsd_style or ""](part)


def weight_decay(schedule: Schedule, done: int) -> float:
    """The decay of the step after `done`, of what decays: it grows as a rate falls, turned around."""
    if schedule.wd_style == CONSTANT:
        return schedule.end_wd
    left = _FALLING[schedule.wd_style](min(1.0, done / schedule.wd_steps))
    return schedule.end_wd - (schedule.end_wd - schedule.start_wd) * left


def decays(parameter: Parameter) -> bool:
    """Whether weight decay is of it: norm weights, which have one dimension, do not decay (megatron-core's own rule)."""
    return len(parameter.shape) > 1


def rates(schedule: Schedule, parameter: Parameter, done: int) -> tuple[float, float]:
    """A parameter's learning rate and weight decay in the step after `done`."""
    decoupled = schedule.decoupled is not None and parameter.name in DECOUPLED
    return learning_rate(schedule, done, decoupled=decoupled), weight_decay(schedule, done) if decays(parameter) else 0.0
