"""What a run calls each of its cases: the layout, and the precision if the run has several, as with a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from validation.case.case import Case


def labels(cases: Iterable[Case]) -> Mapping[Case, str]:
    """`tp2`, or `tp2 in bf16`."""
    listed = list(cases)
    several = len({case.precision for case in listed}) > 1
    return {case: f"{case.label} in {case.precision}" if several else case.label for case in listed}
