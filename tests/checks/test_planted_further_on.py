"""A planted defect that stays below rounding where it is, with weights that are not ours, may be seen further on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from validation.checks import planted
from validation.checks.order import place
from validation.compare.verdict import Verdict
from validation.faults.plan import Plant, plan
from validation.run.options import parsed
from validation.run.result import Result

FURTHER_ON = "probe_gradients/layers.1.attention.key"


def plant(precision: str, folder: str | None) -> Plant:
    (first, *_) = plan(parsed(["--layouts", "single", "--precision", precision]).cases).plants
    return replace(first, case=replace(first.case, hf_model_path=folder))


def judged(monkeypatch: pytest.MonkeyPatch, what: Plant, sound: tuple[str, ...] = (), reasons: tuple[str, ...] = ()) -> Verdict:
    """The verdict on a defect that the check further on is the first to see; `sound` fails without it."""

    def verdicts(result: Any) -> list[Verdict]:
        numbers = {} if reasons else {"rel_error": "0.5"}
        return [Verdict("fail", name, "", reasons, numbers, place=place(what.case, name)) for name in result.failing]

    class Found:
        broken = None

        def __init__(self, *failing: str) -> None:
            self.failing = failing

    monkeypatch.setattr(planted, "verdicts", verdicts)
    return planted.judge_planted(what, cast(Result, Found(FURTHER_ON, *sound)), cast(Result, Found(*sound)), lambda plant: True)


def test_in_a_lower_precision_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, plant("bf16", "a folder"))
    assert (found.status, found.numbers) == ("pass", f"first failing check {FURTHER_ON} (relative 5.0e-01)")
    found = judged(monkeypatch, plant("bf16", "a folder"), reasons=("rank 0: dtype bfloat16", "rank 1: the same"))
    assert (found.status, found.numbers) == ("pass", f"first failing check {FURTHER_ON} (rank 0: dtype bfloat16)")


@pytest.mark.parametrize(("precision", "folder"), [("fp64", "a folder"), ("bf16", None)])
def test_in_fp64_or_with_weights_that_show_faults_it_is_not(
    monkeypatch: pytest.MonkeyPatch, precision: str, folder: str | None
) -> None:
    found = judged(monkeypatch, plant(precision, folder))
    assert found.status == "fail"
    assert "not seen where it is" in found.line


def test_what_fails_without_it_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, plant("bf16", "a folder"), sound=("gradients/lm_head.weight",)).status == "fail"
