"""How much known upstream bugs hide in a case: how many checks, by how much, and what is left when they are taken out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from validation.case.plural import many


@dataclass(frozen=True)
class Excused:
    """Of one bug in one case. `largest` is the largest relative error that it excuses, infinite if one is not finite, `without`
    that of the same checks in the run from which it has been taken out.
    """

    bug: str
    checks: int
    largest: float
    without: float

    @property
    def line(self) -> str:
        """For a reader: `latent-norm-epsilon: 393 checks differ by up to 6.4e-06; without it by up to 4.1e-15`."""
        checks = many(self.checks, "check")
        verb = "differ" if self.checks > 1 else "differs"
        size = f"by up to {self.largest:.1e} (relative)" if self.largest < math.inf else "without limit"
        return f"{self.bug}: {checks} {verb} {size}; without it by up to {self.without:.1e}"


def excused(checks: Iterable[Mapping[str, str]]) -> tuple[Excused, ...]:
    """From the properties of a case's checks, those of each bug together, in the order in which they first show."""
    by_bug: dict[str, list[tuple[float, float]]] = {}
    for properties in checks:
        if "known" in properties:
            error, without = float(properties["rel_error"]), float(properties["rel_error_without"])
            by_bug.setdefault(properties["known"], []).append((error if math.isfinite(error) else math.inf, without))
    return tuple(
        Excused(bug, len(found), max(error for error, _ in found), max(error for _, error in found))
        for bug, found in by_bug.items()
    )
