"""A diagnosis in words: who fails, what that points to, and where it begins. Every text out of results is made plain."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ci.diagnosis.causes import Cause
from ci.diagnosis.diagnosis import MODELLING, OPTIMIZER, WEIGHTS
from ci.diagnosis.evidence import Seen, listed, phase
from ci.diagnosis.traits import Trait
from ci.escape import plain
from ci.junit import Check

_LONGEST = 160
_ABOUT = 0.15
"""By how much, relative, a scale may miss 1/tp and still be called that: parts of a sum are seldom equal."""


def name(check: Check) -> str:
    """The title of a check, for a reader."""
    return plain(check.name, 120)


def groups(cause: Cause, when: str) -> tuple[str, ...]:
    """The groups that a cause names if it first shows there."""
    of_phase = {"weights": (WEIGHTS,), "steps": (OPTIMIZER,)}.get(when, ())
    return (*cause.groups, *of_phase) or (MODELLING,)


def broken(cases: Sequence[Seen], first: Seen) -> str:
    """What ended the runs that did not finish."""
    count = f"{len(cases)} cases broke ({listed(cases)})" if len(cases) > 1 else f"{first.layout} broke"
    where = f", {first.layout} with: " if len(cases) > 1 else ": "
    return f"{count} before all was compared{where}{first.broken}"


def sentence(
    best: Cause, rivals: Sequence[Cause], failing: Sequence[Seen], passing: Sequence[Seen], at: str, *, certain: bool
) -> str:
    """Who fails: what is wrong, first where, and by how much."""
    check = next(check for case in failing if (check := case.wrong_at(at)))
    shape = _shape(best, failing, at)
    equal = [cause for cause in rivals if cause.cost <= best.cost]
    culprits = [_culprit(cause, phase(check), shape) for cause in (best, *equal[:1])]
    said = " or ".join(culprits) if equal else culprits[0] if certain else f"likely {culprits[0]}"
    shown = f" ({shape})" if shape else ""
    return f"{_who(best, failing, passing)}: {said}, first at {name(check)}{shown}"


def _who(best: Cause, failing: Sequence[Seen], passing: Sequence[Seen]) -> str:
    if not passing and len(failing) == 1:
        return f"{failing[0].layout} fails"
    if not best.traits or not passing:
        # With no other case there is nothing that they have and others have not.
        some = f"{len(failing)} of {len(failing) + len(passing)} cases fail" if passing else f"All {len(failing)} cases fail"
        return f"{some} ({listed(failing)})"
    having = " and ".join(trait.said for trait in best.traits)
    those = [case for case in passing if best.within(case)]
    if those:
        return f"{len(failing)} of {len(failing) + len(those)} cases with {having} fail ({listed(failing)}) and none without"
    having = having.removeprefix("without ")
    word = "without" if best.traits[0].name.startswith("without ") else "with"
    return f"Every case {word} {having} fails ({listed(failing)}) and none {'with' if word == 'without' else 'without'}"


def _culprit(cause: Cause, when: str, shape: str) -> str:
    """What is wrong, as far as the place tells."""
    spread = " with ".join(_noun(trait) for trait in cause.traits)
    if not spread:
        return {
            "weights": "weights are loaded or converted wrong",
            "forward": "the model itself, not how it is spread over ranks",
            "backward": "the model's backward pass, not how it is spread over ranks",
            "steps": "the optimizer step, not how it is spread over ranks",
        }[when]
    if "reduction" in shape or "is left" in shape:
        return f"a reduction of {spread} is missing"
    return {
        "weights": f"weights are loaded or converted wrong under {spread}",
        "forward": f"{spread} in the forward pass",
        "backward": f"{spread} in the backward pass",
        "steps": f"the optimizer step under {spread}",
    }[when]


def _noun(trait: Trait) -> str:
    """`tensor parallelism`, `the option +full`, `precision below fp64`."""
    if trait.name.startswith("without "):
        return f"steps {trait.name}"
    return {"precision": f"precision ({trait.said})"}.get(trait.group, trait.group).replace("option ", "the option ")


def _shape(best: Cause, failing: Sequence[Seen], at: str) -> str:
    """The pattern of the error in a few words, and its scale over several layouts."""
    checks = [(case, check) for case in failing if (check := case.wrong_at(at))]
    _, check = min(checks, key=lambda pair: len(pair[0].traits))
    pattern = check.properties.get("pattern", "")
    scales = [(one, scale) for one, found in checks if (scale := _scale(found)) is not None]
    for trait in best.traits:
        if trait.parallel and scales and all(_is_part(one.traits[trait.name].value, scale) for one, scale in scales):
            return f"about 1/{trait.name} of it is left: scaled by {_listed_scales(scales)}"
    if pattern:
        return plain(pattern, _LONGEST)
    scale = _scale(check)
    if scale is not None and abs(scale - 1) > 1e-3:
        return f"scaled by {scale:.2g}"
    error = check.properties.get("rel_error", "")
    return f"relative error {float(error):.1e}" if _is_number(error) else ""


def _listed_scales(scales: Sequence[tuple[Seen, float]]) -> str:
    """`0.49`, or `0.49 in tp2, 0.26 in tp4` if layouts differ."""
    distinct = {f"{scale:.2g}": case for case, scale in reversed(scales)}
    if len(distinct) == 1:
        return next(iter(distinct))
    return ", ".join(f"{scale} in {case.layout}" for scale, case in list(distinct.items())[::-1][:2])


def _is_part(degree: int, scale: float) -> bool:
    return degree > 1 and math.isclose(scale, 1 / degree, rel_tol=_ABOUT)


def _scale(check: Check) -> float | None:
    found = check.properties.get("projection", "")
    return float(found) if _is_number(found) else None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
