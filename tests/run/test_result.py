"""What the ranks' reports make together."""

from __future__ import annotations

from typing import Any

import pytest

from validation.case.case import Case
from validation.case.layout import Layout
from validation.case.preset import TINY
from validation.run.result import merged

CASE = Case("tiny", TINY.model, Layout.parse("tp2"), "bf16", "local", "gloo", 1, 2, 1, 8)


def report(**given: Any) -> dict[str, Any]:
    """A rank's that has found nothing."""
    nothing: dict[str, Any] = {name: {} for name in ("pieces", "problems", "notes", "uncalled", "settings", "place", "memory")}
    return {**nothing, "calls": {"has": [], "did": [], "elsewhere": {}, "loading": False}, **given}


@pytest.mark.parametrize(
    ("said", "judged"),
    [
        ([{"a": True}, {"b": True}], {"a", "b"}),
        ([{"a": True}, {"a": False, "b": True}], {"b"}),
        ([{"a": False}, {"a": True}], set()),
        ([None, {"a": True}], {"a"}),
    ],
)
def test_a_formula_has_judged_what_every_rank_says_so_of_that_says_anything(
    said: list[dict[str, bool] | None], judged: set[str]
) -> None:
    """A rank that steps no share of a parameter does not name it, and one in lockstep, which takes no steps, says nothing."""
    reports = [report() if one is None else report(by_formula=one) for one in said]
    assert merged(CASE, 0.0, {}, reports).by_formula == judged
