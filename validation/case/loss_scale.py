"""What the loss is multiplied with in fp16, step by step, as megatron-core's gradient scalers have it. No torch.

`optimizer.loss_scale` is a scale that stays. Without it the scale begins with `optimizer.initial_loss_scale`. It doubles when
`loss_scale_window` steps have been taken without a skipped one between them. It halves when `hysteresis` steps have been
skipped since it last doubled, and with each further one, down to `min_loss_scale`. Source: Megatron-LM's arguments
(--loss-scale-window, --hysteresis) and the trackers that megatron-core saves in a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from validation.case import life
from validation.case.case import Case

FP16: Mapping[str, Any] = MappingProxyType({"initial_loss_scale": 64.0, "loss_scale_window": 2, "hysteresis": 1})
"""What Plumbline sets in fp16, unless a setting says otherwise.

Upstream's scale of 2**32 skips the first steps of every run, and its window of 1000 steps is longer than a case.
"""
_GROWTH, _BACKOFF = 2.0, 0.5
"""megatron-core's own."""


def settings(case: Case) -> dict[str, Any]:
    """The fields of a case's optimizer that make its scale; none if its loss is not scaled."""
    if case.precision != "fp16" or not case.training.steps:
        return {}
    return {**FP16, **case.training.effective("optimizer")}


def first(case: Case) -> float:
    """That of the first backward pass; 1 if the loss is not scaled."""
    given = settings(case)
    return float(given.get("loss_scale") or given["initial_loss_scale"]) if given else 1.0


def scales(case: Case) -> tuple[float, ...]:
    """That of each step of a case whose loss is scaled, from what happens between them."""
    return tuple(_scales(case, settings(case)))


def _scales(case: Case, given: Mapping[str, Any]) -> Iterator[float]:
    scale, taken, left = first(case), 0, given["hysteresis"]
    events = life.parse(case.training.life) or (life.Event(life.STEP),) * case.training.steps
    for event in events:
        if event.kind == life.STEP:
            yield scale
        if given.get("loss_scale") or event.kind not in (life.STEP, life.OVERFLOW):
            continue
        if event.kind == life.OVERFLOW:
            taken, left = 0, left - 1
            scale = max(scale * _BACKOFF, given.get("min_loss_scale", 1.0)) if left <= 0 else scale
            continue
        taken += 1
        if taken == given["loss_scale_window"]:
            scale, taken, left = scale * _GROWTH, 0, given["hysteresis"]


def scales_can_be_divided_by(case: Case) -> str | None:
    """Megatron-Core asserts it when it builds the optimizer. It takes a `loss_scale` of 0 for none."""
    given = settings(case)
    if not given:
        return None
    kept, start, least = given.get("loss_scale") or 1.0, given["initial_loss_scale"], given.get("min_loss_scale", 1.0)
    for name, value in (("loss_scale", kept), ("initial_loss_scale", start), ("min_loss_scale", least)):
        if not 0 < value < math.inf:
            return f"optimizer.{name} is {value:g}; it must be a number greater than 0"
    for name in ("loss_scale_window", "hysteresis"):
        if given[name] < 1 or given[name] % 1:
            return f"optimizer.{name} is {given[name]:g}; it must be a whole number of at least 1"
    if given.get("loss_scale") or start >= least:
        return None
    return (
        f"optimizer.initial_loss_scale {start:g} is less than optimizer.min_loss_scale {least:g}; make the first larger or the "
        "second smaller"
    )


def scale_is_of_fp16(case: Case) -> str | None:
    """A fixed scale makes megatron-core divide gradients in bf16, too, and in any precision if its optimizer is distributed."""
    scale = case.training.effective("optimizer").get("loss_scale")
    divides = case.precision == "bf16" or case.training.optimizer == "distributed"
    if case.precision == "fp16" or not (scale and divides and case.training.steps):
        return None
    return f"optimizer.loss_scale={scale} is compared in fp16 alone; --precision fp16 works, or leave it out"


RULES: tuple[Callable[[Case], str | None], ...] = (scales_can_be_divided_by, scale_is_of_fp16)
