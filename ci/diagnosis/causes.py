"""Explanations of failures, and what each costs: the cases and places that contradict it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ci.diagnosis.evidence import FORWARD, Seen, phase
from ci.diagnosis.traits import FEWER_BITS, PRECISIONS, Trait, implies
from ci.junit import Check
from validation.case import failures

CONTRADICTED = 3
"""What an explanation costs for each case that contradicts it, or for a place where it cannot show."""
REDUCTION = "a reduction over them is missing"
"""What a pattern says of copies that are parts of a sum (validation/compare/pattern.py)."""
PLAIN = 1
"""What an explanation may cost that is certain if all others are contradicted."""
MODELLING, SHARDING = "modelling", "sharding"
"""What a failing check says of one rank alone: it has the error, too, or has not (validation/checks/judging.py)."""
_PAIR = 2
"""What it costs to need two properties at once."""
_ROUNDED = (2**-13, 2**-7)
"""Relative errors between which rounding to TF32, fp16 or bf16 lies, alone or in a product of rounded factors."""
_FEW_FLOORS = 16
_OTHER_TYPE = re.compile(r"dtype (\w{1,20}) where (\w{1,20}) was declared")
"""What a rank says of a tensor that is not of the reference's type (validation/candidate/recorder.py)."""
_UNBIASED, _MANY = 0.2, 64
"""How far a projection may be from 1, as a part of the relative error, and of how many elements that says something."""
_FEW = 1 / 8
"""A part of a tensor that is not all of it, whatever of an error is left out as small against the largest."""
_MEMBERS = re.compile(r"\b(?:positions?|sequences?|heads?|experts?|ranks?) \d[\d:, -]* only|one element only")
_BOX = re.compile(r"\[([0-9:in, ]{1,200})\]")
_SPAN = re.compile(r"(?:(?P<count>\d{1,15}) in )?(?P<start>\d{1,15})(?::(?P<stop>\d{1,15}))?")
"""Ranges of indices as validation/compare/pattern.py writes them."""
_LATER = frozenset(("backward", "steps"))
_COMPUTED = frozenset(("forward", "backward", "steps"))
SHOWS_AT: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("+full", "+selective", "+distributed"), _LATER),
    **dict.fromkeys(("dp", "dp or cp", "+mean"), _LATER | {"loss"}),
    **dict.fromkeys(("ep", "etp", "ep or etp"), frozenset(("backward", "first of a step", "experts"))),
    **dict.fromkeys(("+allgather", "+sequential", "+grouped"), _LATER | {"computed experts"}),
    **dict.fromkeys(("+seqaux", "+aux", "+zloss"), _LATER | {"balancing"}),
    **dict.fromkeys(("cp", "sp", "nosp"), _COMPUTED),
}
"""Where a property can make a tensor wrong before any other is, in the words of `places`; anywhere if it is not listed."""


@dataclass(frozen=True)
class Cause:
    """The properties that cases must have to fail: none where the model itself is wrong. `cost` is what speaks against it."""

    traits: tuple[Trait, ...]
    cost: int

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its properties, each once."""
        return tuple(dict.fromkeys(trait.group for trait in self.traits))

    def is_part_of(self, other: Cause) -> bool:
        """Whether its one property goes with that of the other: sequence parallelism with tensor parallelism."""
        return len(self.traits) == len(other.traits) == 1 and implies(self.traits[0].name, other.traits[0].name)

    @property
    def of_cases(self) -> bool:
        """Whether it is something that tells cases apart."""
        return any(trait.name != FEWER_BITS for trait in self.traits)

    def within(self, case: Seen) -> bool:
        """Whether the case has the properties."""
        return all(trait.name in case.traits for trait in self.traits)


def causes(failing: Sequence[Seen], passing: Sequence[Seen], name: str) -> list[Cause]:
    """Every explanation of why these cases fail at the check `name` and those do not, the best first."""
    checks = [(case, check) for case in failing if (check := case.wrong_at(name))]
    common = _common(failing, [*failing, *passing])
    single = [(trait,) for trait in common]
    pairs = [pair for pair in combinations(common, 2) if _apart(*pair)]
    rounding = [(Trait(FEWER_BITS),)] if rounded(checks) or typed(checks) or unsized(checks) else []
    sets: list[tuple[Trait, ...]] = [*rounding, (), *single, *pairs]
    found = [Cause(traits, _cost(traits, failing, passing, checks)) for traits in sets]
    return sorted(found, key=lambda cause: cause.cost)


def _common(failing: Sequence[Seen], cases: Sequence[Seen]) -> list[Trait]:
    """What all failing cases have and not all cases; and of what all have what one rank would have been without."""
    shared = set.intersection(*(set(case.traits) for case in failing))
    told = {name for name in shared if not all(name in case.traits for case in cases) or _worth_asking(name)}
    first = failing[0].traits
    return [*(first[name] for name in first if name in told), *_without(failing, cases)]


def _worth_asking(name: str) -> bool:
    return Trait(name).parallel or name.startswith("+") or name in PRECISIONS


def _without(failing: Sequence[Seen], cases: Sequence[Seen]) -> list[Trait]:
    """The options that no failing case has, and some other."""
    options = {name for case in cases for name in case.traits if name.startswith("+")}
    return [Trait(f"without {name}") for name in sorted(options) if not any(name in case.traits for case in failing)]


def _apart(one: Trait, other: Trait) -> bool:
    """Whether a pair says more than one of them; pairs are of what plainly explains something alone.

    `one` comes first in `traits`, which has `pp` before `vpp`: a property that another one implies is the first of a pair.
    """
    return not (one.far_fetched or other.far_fetched or implies(other.name, one.name))


def _cost(
    traits: tuple[Trait, ...], failing: Sequence[Seen], passing: Sequence[Seen], checks: Sequence[tuple[Seen, Check]]
) -> int:
    contradicted = sum(all(_has(case, trait) for trait in traits) for case in passing)
    cost = CONTRADICTED * contradicted + sum(trait.far_fetched for trait in traits) + _PAIR * (len(traits) == 2)
    cost += sum(_not_varied(trait, [*failing, *passing], [check for _, check in checks]) for trait in traits)
    cost += _of_bits(traits, checks)
    cost += CONTRADICTED * any(_cannot_show(trait.name, checks[0][1]) for trait in traits)
    return cost + CONTRADICTED * _against_one_rank(traits, checks)


def _of_bits(traits: tuple[Trait, ...], checks: Sequence[tuple[Seen, Check]]) -> int:
    """What a tensor of another type speaks against the model itself, and a choice without numbers against rounding."""
    if not traits:
        return CONTRADICTED * typed(checks)
    return int(traits[0].name == FEWER_BITS and unsized(checks))


def _has(case: Seen, trait: Trait) -> bool:
    if trait.name == FEWER_BITS:
        return True  # something does it in every case, whatever its precision is
    if trait.name.startswith("without "):
        return trait.name.removeprefix("without ") not in case.traits
    return trait.name in case.traits


def _not_varied(trait: Trait, cases: Iterable[Seen], checks: Sequence[Check]) -> int:
    """One step for a property that all cases have: nothing but its name speaks for it."""
    varied = not all(_has(case, trait) for case in cases)
    small = trait.name == FEWER_BITS or (trait.name in PRECISIONS and near_floor(checks))
    return 0 if varied or small or trait.parallel else 1


def _against_one_rank(traits: Sequence[Trait], checks: Sequence[tuple[Seen, Check]]) -> bool:
    """Whether what one rank alone computes contradicts it: the checks of several ranks say which of both they repeat."""
    spread = any(trait.spreads for trait in traits)
    if not spread and any("ranks" not in case.traits for case, _ in checks):
        return False  # one rank has it: that several make another error of it does not matter
    several = [check for case, check in checks if "ranks" in case.traits]
    if spread:
        return any(check.properties.get("kind") == MODELLING for check in several)
    return any(check.properties.get("kind") == SHARDING or _of_copies(check) for check in several)


def _of_copies(check: Check) -> bool:
    """Whether ranks hold other bytes of one tensor, which one rank cannot."""
    return check.failure == failures.REPLICAS or REDUCTION in check.properties.get("pattern", "")


def _cannot_show(name: str, check: Check) -> bool:
    """Whether a property of a case cannot make this tensor wrong before any other."""
    return name in SHOWS_AT and not SHOWS_AT[name] & places(check)


def places(check: Check) -> frozenset[str]:
    """Where a tensor is: its phase, and whether it is of the experts, a loss or a balancing loss."""
    when = phase(check)
    balancing = "Balancing" in check.name
    told = {when: True, "balancing": balancing, "loss": when == FORWARD and "Loss" in check.name and not balancing}
    # A shared expert is no part of what experts' degrees cut.
    told["experts"] = "Shared Expert" not in check.name and (balancing or check.component == "moe" or "Expert" in check.name)
    # What experts do to the norm of all gradients shows in the first parameter that a step moves.
    told["first of a step"] = when == "steps" and ("Gradient Norm" in check.name or "Embedding" in check.name)
    told["computed experts"] = told["experts"] and when == FORWARD
    return frozenset(place for place, there in told.items() if there)


def near_floor(checks: Sequence[Check]) -> bool:
    """Whether errors are as small as rounding to 8 bits of a mantissa makes them, or a few times the floor."""
    return bool(checks) and all(
        number(check, "rel_error") < _ROUNDED[1] or number(check, "ratio") < _FEW_FLOORS for check in checks
    )


def rounded(checks: Sequence[tuple[Seen, Check]]) -> bool:
    """Whether errors in fp64 and fp32 are those of rounding to a shorter mantissa: as large as that, and in no direction.

    A tensor that is rounded is as often too large as too small, so its projection on the reference stays near 1. That tells it
    from a wrong factor of the same size.
    """
    exact = [check for case, check in checks if "below fp32" not in case.traits]
    return bool(exact) and all(
        _ROUNDED[0] < (error := number(check, "rel_error")) < _ROUNDED[1]
        and abs(number(check, "projection") - 1) < _UNBIASED * error
        and number(check, "elements") >= _MANY
        and not in_places(check)
        for check in exact
    )


def in_places(check: Check) -> bool:
    """Whether a few places alone are wrong: some positions, heads, experts or ranks. What is rounded is wrong everywhere."""
    pattern = check.properties.get("pattern", "")
    return bool(_MEMBERS.search(pattern)) or (not pattern and _share(check) < _FEW)


def _share(check: Check) -> float:
    """The part of the elements that lies within the ranges that are wrong; NaN if these are not all known."""
    wrong = check.properties.get("wrong", "")
    boxes = [[_SPAN.fullmatch(span) for span in box.split(", ")] for box in _BOX.findall(wrong)]
    if not boxes or " more" in wrong:
        return math.nan
    return sum(math.prod(map(_indices, box)) for box in boxes) / number(check, "elements")


def _indices(span: re.Match[str] | None) -> float:
    """How many `5`, `16:48` or `12 in 0:48` are; NaN of anything else."""
    if span is None:
        return math.nan
    return int(span["count"] or 0) or (int(span["stop"]) - int(span["start"]) if span["stop"] else 1)


def typed(checks: Sequence[tuple[Seen, Check]]) -> bool:
    """Whether each tensor is of a shorter type than it was declared to be."""
    return all(other_type(check) and not other_type(check).startswith("float64") for _, check in checks)


def other_type(check: Check) -> str:
    """`bfloat16 and not float32`, if that is what is wrong."""
    found = _OTHER_TYPE.search(check.message)
    return f"{found[1]} and not {found[2]}" if found else ""


def unsized(checks: Sequence[tuple[Seen, Check]]) -> bool:
    """Whether nothing says how large the errors are: a choice may be wrong and the tensors equal."""
    return all(number(check, "rel_error") == 0 for _, check in checks)


def number(check: Check, name: str) -> float:
    """A property; NaN, which is less than nothing, if it is no number."""
    try:
        return float(check.properties[name])
    except (KeyError, ValueError):
        return math.nan
