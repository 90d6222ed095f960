"""From a row to a case, and why a row is none."""

from __future__ import annotations

import functools
import warnings

from validation.case.case import Case
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.case.preflight import RULES
from validation.recipe import factors
from validation.recipe.pairs import Array, Row, arrangement, cover
from validation.run import known
from validation.run.options import parsed

MOST_RANKS = 8
_BATCH = 8
"""Sequences of a step: two micro-batches or more on each rank of nearly every layout."""


def case_of(row: Row) -> Case:
    """The case of a row on the CPU. Raises UsageError."""
    words = ["--layouts", arrangement(row), "--batch-size", str(_BATCH), "--max-ranks", str(MOST_RANKS)]
    return parsed(words).cases[0]


def refusal(row: Row, upstream: bool = True) -> str | None:
    """Why a row is refused before any rank starts; None if it is not. With `upstream` megatron-core is asked, too."""
    try:
        case = case_of(row)
    except UsageError as error:
        return str(error)
    if case.layout.ranks > MOST_RANKS:
        return f"{many(case.layout.ranks, 'rank')} are more than {MOST_RANKS}"
    said = next((sentence for rule in RULES if (sentence := rule(case))), None) or known.refusal(case) or _unlimited(case)
    return said or (_upstreams(case) if upstream else None)


def _unlimited(case: Case) -> str | None:
    """The known bug of which any number may come: what else is wrong in the case would not show."""
    bug = next((bug for bug in known.known_bugs(case) if bug.unlimited(case)), None)
    return f"a known bug: {bug.id}: {bug.what}" if bug else None


def _upstreams(case: Case) -> str | None:
    """What megatron-core says of the configuration; None if it takes it."""
    from validation.candidate import platform

    with (
        warnings.catch_warnings(action="ignore"),
        platform.uncompiled(),
        platform.unused_kernels(),
        platform.broken_is_absent(),
    ):
        from validation.candidate.refusal import refusal as of_classes
    return of_classes(case)


@functools.cache
def array() -> Array:
    """The cases of all pairs. Raises EnvironmentMissing without covertable."""
    return cover(factors.factors(), functools.cache(refusal))
