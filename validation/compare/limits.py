"""Limits: what a tensor may differ by (docs/design.md, section 4). No torch, so that checks can name theirs at the top."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a probe may differ by. `relative_error` bounds ||d||/||r|| and |a - 1|; `max_abs` bounds |d|, where given.

    `floor` is the relative error that rounding alone makes, where the limit is a multiple of that. `undecided` says why what
    keeps these limits has shown nothing, where they are so wide; what does not keep them is wrong all the same. `decided_by`
    is what decides beside them, where they would decide nothing alone.
    """

    relative_error: float
    max_abs: float | None = None
    floor: float | None = None
    undecided: str = ""
    decided_by: str = ""


def own(limits: object) -> Limits:
    """The limits that a check gives itself. Raises TypeError and ValueError for what is none, or decides nothing."""
    if not isinstance(limits, Limits):
        raise TypeError(f"{limits!r} is no Limits; give Limits(relative_error=1e-10), or nothing for those of the precision")
    if not 0 <= limits.relative_error < DECIDES_BELOW:
        said = f"a relative error of {limits.relative_error:g} decides nothing as a limit"
        raise ValueError(f"{said}; give one from 0 to below {DECIDES_BELOW:g}")
    if limits.max_abs is not None and not 0 <= limits.max_abs < math.inf:
        raise ValueError(f"a largest difference of {limits.max_abs:g} decides nothing as a limit; give a number, or None")
    return limits


IN_FP64 = Limits(relative_error=1e-10)
"""Rounding is 5e-15 in every layout and the smallest real bugs are 1e-6."""

AFTER_STEPS = Limits(relative_error=1e-9)
"""Steps add up: AdamW divides by the root of the second moment, which takes half of the digits of small gradients."""

FLOORS = 2.0
"""How many times its floor a tensor may be off in the lower precisions (docs/decisions/0001-tolerance.md)."""

MAX_ABS = {"fp32": 1e-3}
"""The figure that users know, beside the floor: for numbers around 1, and a thousandth of the largest where that is larger."""

DECIDES_BELOW, DECIDES_BELOW_IN_FP8 = 0.5, 1.0
"""Limits from which on a check decides nothing: what half of a tensor is off, such as a sum that one of two ranks lost, and in
fp8, where eight bits alone come near the half, what a tensor of zeros is off."""


FORMULA = "formula"
"""What decides about a second moment that its ranks have judged by the optimizer's formula (docs/design.md, section 4)."""


def decides_below(*, fp8: bool, squared: bool = False) -> float:
    """The limit from which on a check decides nothing: of a tensor, or of the square of one."""
    limit = DECIDES_BELOW_IN_FP8 if fp8 else DECIDES_BELOW
    return (1 + limit) ** 2 - 1 if squared else limit


def above_floor(
    floor: float,
    precision: str,
    magnitude: float = 0.0,
    turned: float = 0.0,
    *,
    fp8: bool = False,
    isolated: bool = False,
    by_formula: bool = False,
) -> Limits:
    """The limits of a tensor in a lower precision: so many times what rounding does to the HuggingFace model itself.

    `magnitude` is the truth's largest: how much rounding moves a number grows with the number. `turned` is how far an element
    may be off of which rounding has turned an optimizer's step over. `by_formula` says that this is a second moment, and what
    the optimizer makes, to the roundings of float32, of a gradient about which another check decides.
    """
    limit, max_abs = FLOORS * floor, MAX_ABS.get(precision)
    alone, decides = limit < decides_below(fp8=fp8), limit < decides_below(fp8=fp8, squared=by_formula)
    return Limits(
        limit,
        None if max_abs is None else max(max_abs * max(1.0, magnitude), FLOORS * turned),
        floor,
        "" if decides else _undecided(floor, precision, fp8, isolated),
        FORMULA if decides and not alone else "",
    )


def _undecided(floor: float, precision: str, fp8: bool, isolated: bool) -> str:
    higher = "the same without fp8" if fp8 else "--precision fp64" if precision == "fp32" else "--precision fp32"
    can = higher if isolated or fp8 else f"--isolated or {higher}"
    return f"cannot be decided in {'fp8' if fp8 else precision}: rounding alone is off by {100 * floor:.0f} %; {can} can"


EXACT = Limits(relative_error=0.0, max_abs=0.0)
