"""A diagnosis in words: who fails, what that points to, and where it begins. Every text out of results is made plain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ci.diagnosis import evidence
from ci.diagnosis.causes import CONTRADICTED, REDUCTION, Cause
from ci.diagnosis.diagnosis import MENDED, MODELLING, OPTIMIZER, UNDECIDED, WEIGHTS
from ci.diagnosis.evidence import MISSING, Seen, listed, phase
from ci.diagnosis.shape import IS_LEFT, shape
from ci.diagnosis.traits import FEWER_BITS, Trait
from ci.escape import plain
from ci.junit import Check
from validation.case import failures
from validation.case.plural import many

_MOST = 3
"""Causes that are named beside one another."""
_BLAMED = {
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "steps": "in the optimizer step",
}
_ALONE = {
    "weights": "weights loaded or converted wrong",
    MISSING: "a model built without weights of the checkpoint",
    "forward": "the model itself ({part})",
    "backward": "the model's backward pass",
    "steps": "the optimizer step",
}
_UPDATED = "Updated "
"""What the title of a tensor has in front that was computed with new weights in the place of others."""
_SUMMED = ("forward", "backward")
"""Where tensors are sums over ranks: weights that are loaded and what steps make are none."""
_NOT_SPREAD = ", not how it is spread over ranks"
_PARTS = {
    "layers": "the residual stream",
    "mla": "MLA",
    "mlp": "the dense MLP",
    "router": "the router",
    "moe": "the MoE",
    "output": "the output",
    "mtp": "the MTP layer",
}
_NARROWER = {"Norm Output": "a norm", "Embedding Output": "the embedding", "Loss": "the loss"}
"""What titles of the residual stream and of the output say more closely."""
_FACTOR = re.compile(r"times the reference everywhere \((?P<factors>[^():]{1,80}): ")
"""A constant that is a number of the case (validation/compare/pattern.py)."""
_REDUCING = {
    "tensor parallelism": "tensor-parallel",
    "sequence parallelism": "sequence-parallel",
    "context parallelism": "context-parallel",
    "expert parallelism": "expert-parallel",
    "expert-tensor parallelism": "expert-tensor-parallel",
    "data parallelism": "data-parallel",
}


def name(check: Check) -> str:
    """The title of a check, for a reader."""
    return plain(check.name, 120)


def groups(cause: Cause, when: str) -> tuple[str, ...]:
    """The groups that a cause names if it first shows there."""
    if cause.cost > 2 * CONTRADICTED:
        return (UNDECIDED,)
    of_phase = {"weights": (WEIGHTS,), "steps": (OPTIMIZER,)}.get(when, ())
    return (*cause.groups, *of_phase) or (MODELLING,)


def other(check: Check) -> tuple[str, str]:
    """The group of a failure that says nothing of what a case computes, and a sentence."""
    if check.failure == failures.MENDED:
        return MENDED, f"A known upstream bug does not show: it may be mended, first at {name(check)}"
    if check.failure == failures.UNDECIDED:
        return UNDECIDED, f"Nothing is wrong, but rounding leaves limits too wide to decide, first at {name(check)}"
    return UNDECIDED, f"{name(check)} fails, and its testsuite does not say of which layout it is: not decided"


def broken(cases: Sequence[Seen], first: Seen) -> str:
    """What ended the runs that did not finish."""
    if len(cases) == 1:
        return f"{first.layout} did not finish: {first.broken}"
    return f"{many(len(cases), 'case')} did not finish ({listed(cases)}), {first.layout} with: {first.broken}"


def sentence(
    best: Cause,
    rivals: Sequence[Cause],
    failing: Sequence[Seen],
    passing: Sequence[Seen],
    at: str,
    *,
    certain: bool,
    others: bool,
) -> str:
    """Who fails: what is wrong, first where, and by how much. `others` says that more cases are red, for another reason."""
    check = next(check for case in failing if (check := case.wrong_at(at)))
    stale = _is_stale(check, failing)
    shown = shape(best, failing, at, sums=not stale and phase(check) in _SUMMED)
    where = f"first at {name(check)}" + (f" ({shown})" if shown else "")
    if best.cost > 2 * CONTRADICTED:
        return f"{_some(failing, passing, others)}, and no property tells them from the others: not decided, {where}"
    equal = [cause for cause in rivals if cause.cost <= best.cost]
    one_each = list({cause.groups: cause for cause in reversed((best, *equal))}.values())[::-1]
    named = list(dict.fromkeys(_culprit(cause, check, shown, stale=stale) for cause in one_each))[:_MOST]
    said = _either(named) if equal else named[0] if certain else f"likely {named[0]}"
    return f"{_who(best, failing, passing, others)}: {said}, {where}"


def _either(named: Sequence[str]) -> str:
    """Several culprits with "or" between them; where in a step they act is said once."""
    # Behind `not how it is spread over ranks` another cause would read as one that it is not, either.
    culprits = [*(one.removesuffix(_NOT_SPREAD) for one in named[:-1]), named[-1]]
    for number, (one, after) in enumerate(pairwise(culprits)):
        where = next((f" {words}" for words in _BLAMED.values() if one.endswith(words) and after.endswith(words)), "")
        culprits[number] = one.removesuffix(where)
    return " or ".join(culprits)


def _is_stale(check: Check, failing: Sequence[Seen]) -> bool:
    """Whether the tensor is wrong with updated weights alone: every one of these cases has computed it right before."""
    before = check.name.removeprefix(_UPDATED)
    return before != check.name and all(before in case.sound for case in failing if case.wrong_at(check.name))


def _who(best: Cause, failing: Sequence[Seen], passing: Sequence[Seen], others: bool) -> str:
    if not best.traits or not passing or best.traits[0].name == FEWER_BITS:
        # With no other case there is nothing that they have and others have not.
        return _some(failing, passing, others)
    noun = "layout" if all(trait.parallel for trait in best.traits) else "case"
    having = " and ".join(trait.said for trait in best.traits)
    those = [case for case in passing if best.within(case)]
    if those:
        return f"{len(failing)} of {len(failing) + len(those)} {noun}s with {having} fail ({listed(failing)}) and none without"
    if having.startswith("without "):
        return f"Every {noun} {having} fails ({listed(failing)}) and none with it"
    return f"Every {noun} with {having} fails ({listed(failing)}) and none without"


def _some(failing: Sequence[Seen], passing: Sequence[Seen], others: bool) -> str:
    if passing:
        fail = "fails" if len(failing) == 1 else "fail"
        return f"{len(failing)} of {many(len(failing) + len(passing), 'case')} {fail} ({listed(failing)})"
    if len(failing) == 1:
        return f"{failing[0].layout} fails"
    if len(failing) == 2 and not others:
        return f"Both cases fail ({listed(failing)})"
    return f"{'' if others else 'All '}{many(len(failing), 'case fails', 'cases fail')} ({listed(failing)})"


def _culprit(cause: Cause, check: Check, shown: str, *, stale: bool) -> str:
    """What is wrong, as far as the place tells."""
    when, spread = phase(check), " with ".join(map(noun, cause.traits))
    if stale:
        kept = "weights" if "Full Forward" in check.name else "weights or a cache"
        return f"{kept} from before the update" + (f" under {spread}" if spread else _NOT_SPREAD)
    if not spread:
        own = _ALONE[when].format(part=_part(check))
        return own if when in ("weights", MISSING) else f"{own}{_NOT_SPREAD}"
    summed = when in _SUMMED and len(cause.traits) == 1 and cause.groups[0] in _REDUCING
    if summed and (sum_ := _sum(_REDUCING[cause.groups[0]], cause.traits[0].name, shown)):
        return sum_
    if when == evidence.WEIGHTS and cause.traits[0].name == FEWER_BITS:
        return "weights rounded to fewer bits"
    return f"{_ALONE[when]} under {spread}" if when in ("weights", MISSING) else f"{spread} {_BLAMED[when]}"


def _part(check: Check) -> str:
    """The part of the model that a check is about."""
    if check.component in ("layers", "output") and (
        found := next((_NARROWER[one] for one in _NARROWER if one in check.name), "")
    ):
        return found
    return _PARTS.get(check.component, plain(check.component, 40))


def _sum(over: str, degree: str, shown: str) -> str:
    """What is wrong with a sum over the ranks of a degree, if the shape of the error says it; empty if it does not."""
    if REDUCTION in shown or IS_LEFT in shown:
        return f"a missing {over} reduction"
    known, article = _FACTOR.search(shown), "an" if over.startswith("e") else "a"
    factors = known["factors"].split(" or ") if known else []
    if degree in factors:
        return f"{article} {over} sum made twice"
    return f"{article} {over} sum divided by {degree} once too often" if f"1/{degree}" in factors else ""


def noun(trait: Trait) -> str:
    """`tensor parallelism`, `the option +full`, `precision below fp64`."""
    if trait.name == "ranks":
        return "what all layouts of several ranks share"
    if trait.name.startswith("without "):
        return f"a step {trait.name}"
    return trait.group.replace("option ", "the option ") if trait.parallel or trait.name.startswith("+") else trait.said
