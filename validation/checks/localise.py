"""What a failing check says of where its error is and which shape it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from validation.case.axes import axes
from validation.case.case import Case
from validation.case.factors import factors

if TYPE_CHECKING:
    from validation.compare.measurement import Measurement
    from validation.compare.verdict import Verdict


def localised(
    verdict: Verdict, measurement: Measurement, case: Case, places: Sequence[Mapping[str, int]], noise: float
) -> Verdict:
    """A failure with the ranks and ranges of its worst pieces and the patterns that they make; others as they are."""
    if verdict.status != "fail":
        return verdict
    from validation.compare.pattern import Surroundings, hints, whereabouts

    found = hints(measurement, Surroundings(axes(case, measurement.name), places, factors(case), noise))
    where, pattern = whereabouts(measurement), ", ".join(found)
    reasons = (where, f"pattern: {pattern}" if pattern else "")
    properties = {key: value for key, value in (("wrong", where.removeprefix("wrong: ")), ("pattern", pattern)) if value}
    return replace(
        verdict,
        reasons=(*verdict.reasons, *filter(None, reasons)),
        properties={**verdict.properties, **properties},
    )
