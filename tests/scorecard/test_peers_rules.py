"""The peers' rules, at both sides of what they ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from validation.case.case import Case
from validation.case.parameters import parameters
from validation.case.probes import observed
from validation.compare.difference import Difference
from validation.compare.measurement import PieceReport
from validation.compare.piece import whole
from validation.faults import catalogue
from validation.run.result import Result
from validation.scorecard.peers import said
from validation.scorecard.watched import NOTES

CASE: Case = catalogue.find("A01").case("single")
SOUND: dict[str, Any] = {
    "weights": {},
    "token_loss": {"one": {"candidate": 20.0, "reference": 20.0, "count": 5.0}},
    "logits": {
        "one": {"error": 0.0, "count": 10.0, "products": [4.0, 4.0, 4.0], "largest": [[2.0, 3], [2.0, 3]]},
        "other": {"error": 0.0, "count": 10.0, "products": [1.0, 1.0, 1.0], "largest": [[1.0, 64], [1.0, 64]]},
    },
}


def result(notes: dict[str, Any] | None = None, largest: float = 0.0, without: str = "") -> Result:
    """A sound run's, with other notes, and with this largest error of the logits."""
    pieces = {f"weights/{name}": () for name in parameters(CASE.model) if name != without}
    box = whole(observed(CASE)["logits"].shape)
    error = Difference(1, 0, largest, (0,), 0.0, 0.0, 1.0, 1.0, 0, 0)
    found: dict[str, Any] = {**pieces, "logits": (PieceReport(0, box, error, ""),)}
    return Result(CASE, 0.0, {}, pieces=found, notes=({NOTES: {**SOUND, **(notes or {})}},))


def broken(found: Result) -> set[str]:
    return {name for name, is_broken in said(found).items() if is_broken}


def logits(**changed: Any) -> dict[str, Any]:
    return {"logits": {**SOUND["logits"], "one": {**SOUND["logits"]["one"], **changed}}}


def test_a_sound_run_breaks_none() -> None:
    assert broken(result()) == set()


@pytest.mark.parametrize(
    ("notes", "rules"),
    [
        ({"weights": {"a": {"bridge": 0, "verl": 0}}}, set()),
        ({"weights": {"a": {"bridge": 0, "verl": 1}}}, {"verl merger"}),
        ({"weights": {"a": {"bridge": 2, "verl": 2}}}, {"verl merger", "Bridge round trip"}),
        (logits(error=1.99), set()),
        (logits(error=2.01), {"ms-swift"}),
        (logits(products=[4.0, 3.96, 4.0]), set()),
        (logits(products=[4.0, 3.94, 4.0]), {"Bridge compare.py"}),
        (logits(largest=[[2.0, 4], [2.0, 3]]), {"Bridge compare.py"}),
        (logits(largest=[[0.5, 4], [2.0, 3]]), {"Bridge compare.py"}),
        ({"token_loss": {"one": {"candidate": 20.2, "reference": 20.0, "count": 5.0}}}, set()),
        ({"token_loss": {"one": {"candidate": 20.3, "reference": 20.0, "count": 5.0}}}, {"verl engine test"}),
        ({"token_loss": {"one": {"candidate": float("nan"), "reference": 20.0, "count": 5.0}}}, {"verl engine test"}),
    ],
)
def test_each_rule_has_its_limit(notes: dict[str, Any], rules: set[str]) -> None:
    assert broken(result(notes)) == rules


@pytest.mark.parametrize(
    ("largest", "rules"), [(9.9e-4, set()), (1e-3, {"max diff < 1e-3"}), (float("nan"), {"max diff < 1e-3"})]
)
def test_the_largest_difference_has_one(largest: float, rules: set[str]) -> None:
    assert broken(result(largest=largest)) == rules


def test_a_tensor_that_the_model_has_not_breaks_the_rules_about_weights() -> None:
    assert broken(result(without="lm_head.weight")) == {"Bridge round trip", "verl merger"}


def test_a_place_that_several_ranks_note_counts_once() -> None:
    found = result(logits(error=1.99))
    assert broken(replace(found, notes=found.notes * 2)) == set()
