"""Explanations of failures, and what each costs: the cases and places that contradict it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ci.diagnosis.evidence import FORWARD, MISSING, WEIGHTS, Seen, phase
from ci.diagnosis.traits import PRECISIONS, Trait, implies
from ci.junit import Check

CONTRADICTED = 3
"""What an explanation costs for each case that contradicts it, or for a place where it cannot show."""
MODELLING, SHARDING = "modelling", "sharding"
"""What a failing check says of one rank alone: it has the error, too, or has not (validation/checks/parity.py)."""
_PAIR = 2
"""What it costs to need two properties at once."""
_ON_THE_WAY_BACK = ("+full", "+selective", "+distributed", "dp", "dp or cp", "+mean")
_OF_EXPERTS = ("ep", "etp", "ep or etp", "+allgather", "+sequential", "+grouped")
_OF_BALANCING = ("+seqaux", "+aux", "+zloss")
_EXPERTS = ("Expert", "MoE", "Dispatched", "Balancing")
_UNLOADED = (*_ON_THE_WAY_BACK, *_OF_BALANCING, "cp", "sp", "nosp", "+allgather")


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

    def within(self, case: Seen) -> bool:
        """Whether the case has the properties."""
        return all(trait.name in case.traits for trait in self.traits)


def causes(failing: Sequence[Seen], passing: Sequence[Seen], name: str) -> list[Cause]:
    """Every explanation of why these cases fail at the check `name` and those do not, the best first."""
    checks = [check for case in failing if (check := case.wrong_at(name))]
    common = _common(failing, [*failing, *passing])
    single = [(trait,) for trait in common]
    pairs = [pair for pair in combinations(common, 2) if _apart(*pair)]
    sets: list[tuple[Trait, ...]] = [(), *single, *pairs]
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
    """Whether a pair says more than one of them; pairs are of what plainly explains something alone."""
    plain = not (one.far_fetched or other.far_fetched)
    return plain and not (implies(one.name, other.name) or implies(other.name, one.name))


def _cost(traits: tuple[Trait, ...], failing: Sequence[Seen], passing: Sequence[Seen], checks: Sequence[Check]) -> int:
    contradicted = sum(all(_has(case, trait) for trait in traits) for case in passing)
    cost = CONTRADICTED * contradicted + sum(trait.far_fetched for trait in traits)
    cost += _PAIR * (len(traits) - 1) if traits else 0
    cost += sum(_not_varied(trait, [*failing, *passing], checks) for trait in traits)
    cost += CONTRADICTED * any(_cannot_show(trait.name, check) for check in checks[:1] for trait in traits)
    return cost + CONTRADICTED * _against_one_rank(traits, failing, checks)


def _has(case: Seen, trait: Trait) -> bool:
    if trait.name.startswith("without "):
        return trait.name.removeprefix("without ") not in case.traits
    return trait.name in case.traits


def _not_varied(trait: Trait, cases: Iterable[Seen], checks: Sequence[Check]) -> int:
    """One step for a property that all cases have: nothing but its name speaks for it."""
    varied = not all(_has(case, trait) for case in cases)
    return 0 if varied or (trait.name in PRECISIONS and rounding(checks)) or trait.parallel else 1


def _against_one_rank(traits: Sequence[Trait], failing: Sequence[Seen], checks: Sequence[Check]) -> bool:
    """Whether what one rank alone computes contradicts it: the checks of several ranks say which of both they repeat."""
    spread = any(trait.spreads for trait in traits)
    if not spread and any("ranks" not in case.traits for case in failing):
        return False  # one rank has it: that several make another error of it does not matter
    kinds = [check.properties.get("kind") for case, check in zip(failing, checks, strict=False) if "ranks" in case.traits]
    return any(kind == (MODELLING if spread else SHARDING) for kind in kinds)


def _cannot_show(name: str, check: Check) -> bool:
    """Whether a property of a case cannot make this tensor wrong before any other."""
    title, when = check.name, phase(check)
    experts = any(word in title for word in _EXPERTS) or check.component == "moe"
    if when in (WEIGHTS, MISSING):
        return name in _UNLOADED or (name in _OF_EXPERTS and not experts)
    if when != FORWARD:
        return False
    if name in _ON_THE_WAY_BACK:
        return "Loss" not in title or "Balancing" in title
    return (name in _OF_EXPERTS and not experts) or (name in _OF_BALANCING and "Balancing" not in title)


def rounding(checks: Sequence[Check]) -> bool:
    """Whether errors are as small as rounding to 8 bits of a mantissa makes them, or a few times the floor."""
    found = [_number(check.properties, "rel_error") for check in checks]
    ratios = [_number(check.properties, "ratio") for check in checks]
    return bool(found) and all(
        (error is not None and error < 2**-7) or (ratio is not None and ratio < 16)
        for error, ratio in zip(found, ratios, strict=True)
    )


def _number(properties: Mapping[str, str], name: str) -> float | None:
    try:
        return float(properties.get(name, ""))
    except ValueError:
        return None
