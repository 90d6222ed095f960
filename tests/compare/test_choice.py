"""A router's choice beside what its own scores and the reference's bias choose."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from validation.compare.choice import by_own_scores
from validation.compare.difference import measure
from validation.compare.measurement import Measurement, PieceReport
from validation.compare.piece import whole
from validation.compare.verdict import ERROR, FAIL, KNOWN, PASS, Verdict

SOUND = [0.0, 0.0, 0.0, 0.0]


def reported(of_tokens: list[float]) -> Measurement:
    """What a rank says of four tokens."""
    found = torch.tensor([of_tokens], dtype=torch.float64)
    box = whole(found.shape)
    return Measurement("by", (1, 4), (PieceReport(0, box, measure(found, torch.zeros_like(found), box), ""),))


@pytest.mark.parametrize("status", [PASS, FAIL, KNOWN, ERROR])
def test_where_they_agree_the_verdict_stays(status: str) -> None:
    before = Verdict(status, "Router Output", "numbers", ("a reason",))
    assert by_own_scores(before, reported(SOUND), reported(SOUND)) == before


@pytest.mark.parametrize("status", [PASS, FAIL, KNOWN])
def test_other_experts_than_the_scores_choose_are_a_failure_whatever_else_is_right(status: str) -> None:
    """A near-tie of the reference is none here, and no known bug does that."""
    found = by_own_scores(Verdict(status, "Router Output"), reported([0.0, 0.012, 0.0, 1e-4]), reported(SOUND))
    assert found.status == FAIL
    assert found.reasons == (
        "2 tokens' experts are not those that their own scores and the bias give (largest margin 1.2e-02)",
    )


def test_a_bias_that_is_off_is_a_failure_though_no_token_chooses_otherwise() -> None:
    found = by_own_scores(Verdict(PASS, "Router Output"), reported(SOUND), reported([1e-3, 0.0, 2e-3, 1e-3]))
    assert found.status == FAIL
    assert found.reasons == ("3 tokens choose by other scores than their own with the bias (off by at most 2.0e-03)",)


@pytest.mark.parametrize(("before", "after"), [("", "routes"), ("coverage", "coverage")])
def test_a_choice_that_fails_here_alone_is_a_failure_of_routes(before: str, after: str) -> None:
    given = Verdict(FAIL if before else PASS, "Router Output", failure=before)
    assert by_own_scores(given, reported([0.0, 0.012, 0.0, 0.0]), reported(SOUND)).failure == after


def test_what_is_no_number_counts() -> None:
    assert by_own_scores(Verdict(PASS, "Router Output"), reported(SOUND), reported([0.0, math.nan, 0.0, 0.0])).status == FAIL


def test_a_token_of_which_nothing_is_known_is_a_failure() -> None:
    """Silence proves nothing. Where the choice itself is not known, that is what is said."""
    sound = reported(SOUND)
    for missing in (replace(sound, pieces=()), replace(sound, shape=(1, 5))):
        for given in ((sound, missing), (missing, sound)):
            assert by_own_scores(Verdict(PASS, "Router Output"), *given).status == FAIL
            assert by_own_scores(Verdict(ERROR, "Router Output"), *given).status == ERROR


def test_silence_is_said_in_a_sentence_behind_what_was_wrong_before() -> None:
    """The verdict that there was keeps its reasons."""
    sound = reported(SOUND)
    found = by_own_scores(Verdict(FAIL, "Router Output", reasons=("a reason",)), replace(sound, shape=(1, 5)), sound)
    assert found.reasons == ("a reason", "what its own scores and the bias choose is not known of every token")
