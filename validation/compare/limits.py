"""Limits: what a tensor may differ by (docs/design.md, section 4). No torch, so that checks can name theirs at the top."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a probe may differ by. `relative_error` bounds ||d||/||r|| and |a - 1|; `max_abs` bounds |d|, where given.

    `floor` is the relative error that rounding alone makes, where the limit is a multiple of that.
    """

    relative_error: float
    max_abs: float | None = None
    floor: float | None = None


IN_FP64 = Limits(relative_error=1e-10)
"""Rounding is 5e-15 in every layout and the smallest real bugs are 1e-6."""

AFTER_STEPS = Limits(relative_error=1e-9)
"""Steps add up: AdamW divides by the root of the second moment, which takes half of the digits of small gradients."""

FLOORS = 2.0
"""How many times its floor a tensor may be off in the lower precisions (docs/decisions/0001-tolerance.md)."""

MAX_ABS = {"fp32": 1e-3}
"""The figure that users know, beside the floor: for numbers around 1, and a thousandth of the largest where that is larger."""


def above_floor(floor: float, precision: str, magnitude: float = 0.0) -> Limits:
    """The limits of a tensor in a lower precision: so many times what rounding does to the HuggingFace model itself.

    `magnitude` is the truth's largest: how much rounding moves a number grows with the number.
    """
    max_abs = MAX_ABS.get(precision)
    return Limits(FLOORS * floor, None if max_abs is None else max_abs * max(1.0, magnitude), floor)


EXACT = Limits(relative_error=0.0, max_abs=0.0)
