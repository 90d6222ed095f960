"""The shape of an error in a few words: a factor that is one over a degree, a pattern, a scale, or its size."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ci.diagnosis.causes import REDUCTION, Cause, in_places, number, other_type
from ci.diagnosis.evidence import Seen
from ci.escape import plain
from ci.junit import Check
from validation.case import failures

IS_LEFT = "of it is left"
_LONGEST = 160
_STAGES = ("pp", "vpp", "uneven stages")
"""Degrees over which no tensor is summed."""
_CHOICE = "their own"
"""What a choice of experts says that is equal to the reference's, or nearly, and not what its scores give."""
_EVERYWHERE = "times the reference everywhere"
"""What a pattern says of a constant factor. A part of a sum is none."""
_REPLICAS = re.compile(r"replicas of \[[^\]]{0,200}\] on ranks (?P<ranks>\d{1,6}(?:, \d{1,6}){0,7}) differ")
"""What a check says of them (validation/compare/verdict.py)."""
_ABOUT = 0.15
"""By how much, relative, a scale may miss 1/tp and still be called that: parts of a sum are seldom equal."""
_TELLING = 5e-3
"""What a scale must miss 1 by to be worth a word."""


def shape(cause: Cause, failing: Sequence[Seen], at: str, *, sums: bool) -> str:
    """That of the error at the check `at` in these cases. `sums` says that a part of it may be a sum that is not complete."""
    checks = [(case, check) for case in failing if (check := case.wrong_at(at))]
    _, check = min(checks, key=lambda pair: len(pair[0].traits))
    again = ["not repeatable: a race, or something random"] if any(map(_varies, (check for _, check in checks))) else []
    whole = not in_places(check) and _EVERYWHERE not in _pattern(check)
    part = _part_of(cause, checks) if sums and whole else ""
    infinite = "NaN or infinite" if check.failure == failures.NOT_FINITE else ""
    told = part or other_type(check) or _pattern(check) or ("" if infinite else _size(check))
    return ", ".join(filter(None, (infinite, told, "" if REDUCTION in told else _copies(check), *again)))


def _copies(check: Check) -> str:
    """That ranks hold different copies, which says more than the size of the error."""
    found = _REPLICAS.search(check.message) if check.failure == failures.REPLICAS else None
    return f"the copies on ranks {found['ranks']} differ" if found else ""


def _varies(check: Check) -> bool:
    return "not repeatable" in check.message


def _part_of(cause: Cause, checks: Sequence[tuple[Seen, Check]]) -> str:
    """That about 1/tp of the tensor is left, if it is so in every case and so in each degree."""
    scales = [(case, scale) for case, check in checks if (scale := _finite(check, "projection")) is not None]
    for trait in cause.traits if scales else ():
        if trait.parallel and trait.name not in _STAGES and all(_is_part(case, trait.name, scale) for case, scale in scales):
            return f"about 1/{trait.name} {IS_LEFT}: scaled by {_scales(scales)}"
    return ""


def _is_part(case: Seen, trait: str, scale: float) -> bool:
    return trait in case.traits and math.isclose(scale, 1 / case.traits[trait].value, rel_tol=_ABOUT)


def _scales(scales: Sequence[tuple[Seen, float]]) -> str:
    """`0.49`, or `0.49 in tp2, 0.26 in tp4` if layouts differ."""
    distinct: dict[str, Seen] = {}
    for case, scale in scales:
        distinct.setdefault(f"{scale:.2g}", case)
    if len(distinct) == 1:
        return next(iter(distinct))
    return ", ".join(f"{scale} in {case.layout}" for scale, case in list(distinct.items())[:2])


def _pattern(check: Check) -> str:
    return plain(check.properties.get("pattern", ""), _LONGEST)


def _size(check: Check) -> str:
    scale, error = _finite(check, "projection"), _finite(check, "rel_error")
    if scale is not None and abs(scale - 1) > _TELLING:
        return f"scaled by {scale:.3g}"
    if error == 0:
        return "not chosen by its own scores and the bias" if _CHOICE in check.message else ""
    return f"relative error {error:.1e}" if error is not None else ""


def _finite(check: Check, name: str) -> float | None:
    """A property, if it is a finite number."""
    found = number(check, name)
    return found if math.isfinite(found) else None
