"""The same cases over two transports: what is said to agree agrees, and what does not is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import transports
from benchmarks.gpu import Row
from ci import junit
from validation.case.preflight import RULES
from validation.run.options import parsed

PASSED = Row("case", "pass", checks=1)


def check(name: str, error: str = "0.010", status: str = "pass", largest: str = "1.0") -> junit.Check:
    numbers = {"max_diff": largest, "avg_diff": "0.1", "rel_error": error, "floor": "0.02"}
    return junit.Check("validation", name, status, properties=numbers)


def test_numbers_that_are_the_same_are_counted_and_the_farthest_is_named() -> None:
    ours = [check("a"), check("b"), check("c", largest="1.5"), junit.Check("validation", "runs", "pass")]
    theirs = [check("a"), check("b", "0.015"), check("c"), junit.Check("validation", "runs", "pass")]
    pair = transports.beside(PASSED, PASSED, ours, theirs)
    assert (pair.compared, pair.same, pair.apart_check) == (3, 1, "b")
    assert pair.apart == pytest.approx(0.25)
    assert pair.agrees


@pytest.mark.parametrize("theirs", [[check("a"), check("b", status="fail")], [check("a")]], ids=["another", "absent"])
def test_another_verdict_of_one_check_is_no_agreement(theirs: list[junit.Check]) -> None:
    pair = transports.beside(PASSED, PASSED, [check("a"), check("b")], theirs)
    assert pair.other_verdicts == "b"
    assert not pair.agrees
    assert "other verdicts in b" in transports.table([pair], "cards")


def test_a_case_that_broke_is_told_by_its_message() -> None:
    broken = Row("case-staged", "broken", message="rank 1 was killed")
    pair = transports.beside(PASSED, broken, [check("a")], [])
    assert (pair.compared, pair.other_verdicts, pair.agrees) == (0, "", False)
    assert "- case-staged: rank 1 was killed" in transports.table([pair], "cards")


@pytest.mark.parametrize(("gpus", "layouts"), [(2, {"tp2", "cp2"}), (4, {"tp4", "tp2cp2", "tp2"}), (8, {"tp4ep2dp2", "ep8"})])
def test_all_that_so_many_gpus_hold_is_run(gpus: int, layouts: set[str]) -> None:
    words = [group.words for group in transports.groups(gpus)]
    found = {layout for one in words for layout in one[-1].split(",")}
    assert layouts <= found
    cases = [case for one in words for case in parsed((*one, "--transport", "nccl")).cases]
    assert [sentence for case in cases for rule in RULES if (sentence := rule(case))] == []
    assert {word for one in words for word in one} >= {"te", "local", "fp32", "bf16", "v3-layers"}


@pytest.mark.parametrize("gpus", transports.LAYOUTS)
def test_a_layout_stands_with_those_that_need_as_many_gpus(gpus: int) -> None:
    """None that fewer would hold, which would not be run where fewer are."""
    words = [group.words for group in transports.groups(gpus, alone=gpus)]
    assert {case.layout.ranks for one in words for case in parsed((*one, "--transport", "nccl")).cases} == {gpus}


def test_ranks_that_share_are_all_on_one_card() -> None:
    (group, *_) = transports.groups(4)
    words, variables = transports.command(group, "staged", rehearse=False)
    assert variables == {"CUDA_VISIBLE_DEVICES": "0"}
    assert words[-2:] == ["--share-gpu", "4"]
    assert transports.command(group, "nccl", rehearse=False) == ([*group.words, "--transport", "nccl"], {})


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--gpus", "1"), 3, "at least two ranks, and 1 is too few"),
        (("--gpus", "2", "--only", "te/fp8"), 2, "known are local/bf16, "),
    ],
)
def test_what_cannot_be_run_is_refused(
    words: tuple[str, ...],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(sys, "argv", ["transports.py", "--out", str(tmp_path), *words])
    assert transports.main() == code
    assert said in capsys.readouterr().err
