"""Below fp64 a limit follows from what rounding does to these tokens, with room for one that changes its experts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.rollout import engine
from tests.rollout.conftest import Bench, compared
from validation.rollout.dump import FIRST, KINDS, PREFILL, Said
from validation.rollout.floors import Floor
from validation.rollout.judge import ERROR, FAIL, PASS, judge, together

FLOOR = Floor(dict.fromkeys(KINDS, 0.1), 0.3)


def said(count: int) -> list[Said]:
    """One sequence of a prompt, of which `count` tokens count."""
    return [Said((0,) * (count + 2), count + 1, (), (False, *(True,) * count, False))]


def judged(differences: list[float], floor: Floor = FLOOR, spread: float = 10.0) -> str:
    """The status of prefilled tokens that are off by so much."""
    truth = torch.full((len(differences) + 2,), -2.0, dtype=torch.float64)
    side = truth + torch.tensor([0.0, *differences, 0.0], dtype=torch.float64)
    (verdict,) = judge("engine", "HuggingFace", ([side], [truth]), said(len(differences)), floor, spread).verdicts
    return verdict.status


def test_the_limit_of_a_kind_is_twice_its_floor_and_room_for_one_token() -> None:
    """Of many tokens the room is nothing; of one it is what one token may be off."""
    assert FLOOR.of_token == pytest.approx(1.2)
    assert FLOOR.of_kind(PREFILL, 10**8) == pytest.approx(0.2, rel=1e-4)
    assert FLOOR.of_kind(FIRST, 1) == pytest.approx(math.hypot(0.2, 1.2))


@pytest.mark.parametrize(
    ("differences", "status"),
    [
        ([0.19] * 400, PASS),
        ([0.25] * 400, FAIL),
        ([1.19, *[0.0] * 399], PASS),
        ([1.21, *[0.0] * 399], FAIL),
        ([math.nan, *[0.0] * 399], FAIL),
    ],
)
def test_many_tokens_or_one_that_are_off(differences: list[float], status: str) -> None:
    """By a little each, or by much in one place; NaN is no number."""
    assert judged(differences) == status


def test_a_limit_as_wide_as_half_of_the_spread_decides_nothing() -> None:
    """A side that keeps it may say anything; one that does not is wrong all the same."""
    assert judged([0.0] * 400, spread=0.45) == PASS
    assert judged([0.0] * 400, spread=0.4) == ERROR
    assert judged([9.0] * 400, spread=0.4) == FAIL


def test_in_fp64_there_is_one_limit() -> None:
    """For each token and for all of them, whatever the spread is."""
    exact = Floor({}, 1e-9, exact=True)
    assert judged([0.9e-9] * 4, exact, spread=0.0) == PASS
    assert judged([1.1e-9, 0.0], exact) == FAIL


def test_two_sides_may_be_as_far_apart_as_both_may_from_the_truth() -> None:
    """Exact ones stay exact, and nothing is known if nothing is known of one."""
    exact, unknown = Floor({}, 1e-9, exact=True), Floor({}, 0.0, undecided="nothing is known")
    assert together(FLOOR, FLOOR).by_kind[PREFILL] == pytest.approx(0.2)
    assert together(FLOOR, exact).of_token == pytest.approx(1.2)
    assert together(exact, exact).exact
    assert together(FLOOR, unknown).undecided == "nothing is known"


def test_an_engine_in_bf16(tmp_path: Path, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing fails of a right one, and of a wrong one the cause is named, within what rounding allows."""
    sequences = engine.drawn(3, [10] * 4)
    model = engine.opened(bench.folder, "bf16")
    for temperature, wrong in ((1.0, False), (0.5, True)):
        lines = [
            {"tokens": list(one.tokens), "prompt": 6, "logprobs": engine.chosen(engine.logits(model, one), one, temperature)}
            for one in sequences
        ]
        done = compared(capsys, engine.write(tmp_path / "dump.jsonl", lines, precision="bf16"), bench.folder)
        statuses = {check["status"] for check in done.document["logprobs"]}
        assert ("fail" in statuses) == wrong, done.text
        assert (PASS in statuses) != wrong, done.text
    assert "a temperature of 0.5" in done.sentence
