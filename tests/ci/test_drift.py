"""Drift: a check that has come nearer to its limit, though within it, or is gone, is red; what is rounding alone is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.drift import FACTOR, MEASURABLE_ABOVE_FLOOR, MEASURABLE_IN_FP64, Drift, drift
from ci.expected import save
from ci.junit import Check, Suite
from tests.ci.green import CHECKS, EXPECTED, FILE, MANIFEST, SUITE, Change, with_check, with_properties

NEAR = {"rel_error": "9e-11", "tolerance": "1e-10"}


def at(ratio: float, **more: str) -> Change:
    """The suite with its second check at so much of its limit."""
    return with_check(1, properties={"rel_error": repr(ratio * 1e-10), "tolerance": "1e-10", "ranks": "0,1", **more})


def of_floor(ratio: float) -> Change:
    """The same in a lower precision, whose limit is twice a floor."""
    return at(ratio, floor="5e-11")


def compared(folder: Path, then: Suite, now: Suite, factor: float = FACTOR) -> Drift:
    """What has changed between two suites."""
    junit.write(folder / "base" / FILE, then)
    junit.write(folder / "now" / FILE, now)
    return drift(folder / "base", folder / "now", factor)


def test_the_same_results_have_not_drifted(tmp_path: Path) -> None:
    found = compared(tmp_path, SUITE, SUITE)
    assert (found.reasons, found.appeared, found.remarks, found.compared) == ([], [], [], 2)


@pytest.mark.parametrize(
    ("then", "now", "red"),
    [
        pytest.param(at(0.3), at(0.61), True, id="more than twice"),
        pytest.param(at(0.3), at(0.59), False, id="less than twice"),
        pytest.param(at(0.6), at(0.1), False, id="smaller"),
        pytest.param(at(1e-9), at(MEASURABLE_IN_FP64), False, id="rounding in fp64, by any factor"),
        pytest.param(at(0.0), at(2.1 * MEASURABLE_IN_FP64), True, id="no longer rounding in fp64"),
        pytest.param(of_floor(0.03), of_floor(0.19), False, id="a single number near its floor"),
        pytest.param(of_floor(0.03), of_floor(0.21), True, id="no longer near its floor"),
        pytest.param(of_floor(0.4), of_floor(0.81), True, id="a tensor, above twice what it was"),
    ],
)
def test_a_ratio_may_be_twice_what_it_was_and_rounding_may_be_anything(
    tmp_path: Path, then: Change, now: Change, red: bool
) -> None:
    assert bool(compared(tmp_path, then(SUITE), now(SUITE)).reasons) is red


@pytest.mark.parametrize(
    ("then", "now", "red"),
    [
        pytest.param(of_floor(0.03), at(0.08), True, id="a floor then, none now"),
        pytest.param(at(0.03), of_floor(0.08), False, id="none then, a floor now"),
    ],
)
def test_what_is_measurable_is_so_in_the_precision_of_now(tmp_path: Path, then: Change, now: Change, red: bool) -> None:
    """A check that has lost its floor is in fp64 now, where less is rounding."""
    assert bool(compared(tmp_path, then(SUITE), now(SUITE)).reasons) is red


def test_what_has_grown_says_from_what_to_what(tmp_path: Path) -> None:
    assert compared(tmp_path, at(0.1)(SUITE), at(0.75)(SUITE)).reasons == [
        f"{FILE}: Layer 0 Query (mla): 0.75 of its limit, and 0.1 on the base branch: it has grown more than is allowed"
    ]


def test_the_factor_can_be_chosen(tmp_path: Path) -> None:
    assert compared(tmp_path, at(0.1)(SUITE), at(0.75)(SUITE), factor=8).reasons == []


def test_a_number_that_is_none_has_grown(tmp_path: Path) -> None:
    assert (
        len(compared(tmp_path, SUITE, with_check(1, properties={"rel_error": "nan", "tolerance": "1e-10"})(SUITE)).grown) == 1
    )


def test_the_worst_comes_first(tmp_path: Path) -> None:
    then, now = at(0.1)(SUITE), at(0.3)(SUITE)
    now = with_check(2, properties={"rel_error": "9e-11", "tolerance": "1e-10"})(now)
    assert [reason.split(":")[1] for reason in compared(tmp_path, then, now).reasons] == [
        " Layer 0 Key (mla)",
        " Layer 0 Query (mla)",
    ]


def test_checks_without_a_limit_above_zero_have_no_ratio(tmp_path: Path) -> None:
    equal = with_check(1, properties={"rel_error": "0.0", "tolerance": "0.0"})(SUITE)
    flipped = with_check(1, properties={"rel_error": "0.2", "tolerance": "0.0"})(SUITE)
    assert compared(tmp_path, equal, flipped).reasons == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"status": "known"}, id="known upstream bug"),
        pytest.param({"status": "fail"}, id="failure, which the gate sees"),
        pytest.param({"properties": {"tolerance": "1e-10"}}, id="no error"),
        pytest.param({"properties": {"rel_error": "1.0"}}, id="no limit"),
        pytest.param({"properties": {**NEAR, "planted": "a defect"}}, id="planted defect"),
    ],
)
def test_what_is_no_passing_comparison_has_no_ratio(tmp_path: Path, change: dict[str, object]) -> None:
    now = with_check(1, **{"properties": NEAR, **change})(SUITE)
    for found in (compared(tmp_path, SUITE, now), compared(tmp_path, now, with_check(1, properties=NEAR)(SUITE))):
        assert (found.reasons, found.compared) == ([], 1)


def test_a_check_that_is_gone_is_red(tmp_path: Path) -> None:
    found = compared(tmp_path, SUITE, replace(SUITE, checks=CHECKS[:2]))
    assert found.reasons == [
        f"{FILE}: Layer 0 Key (mla): gone, and it is there on the base branch",
        f"{FILE}: Layer 0 Gradient (gradients): gone, and it is there on the base branch",
    ]


def test_a_testsuite_that_is_gone_is_red(tmp_path: Path) -> None:
    junit.write(tmp_path / "base" / "more.xml", SUITE)
    assert compared(tmp_path, SUITE, SUITE).reasons == ["more.xml: gone, and it is there on the base branch"]


def test_what_is_new_is_shown_and_not_red(tmp_path: Path) -> None:
    junit.write(tmp_path / "now" / "more.xml", SUITE)
    more = Check("mla", "Layer 1 Key", "pass")
    found = compared(tmp_path, SUITE, replace(SUITE, checks=(*CHECKS, more)))
    assert found.reasons == []
    assert found.appeared == ["more.xml", f"{FILE}: Layer 1 Key (mla)"] or found.appeared == [
        f"{FILE}: Layer 1 Key (mla)",
        "more.xml",
    ]


def test_another_case_is_said_and_its_ratios_are_not_compared(tmp_path: Path) -> None:
    found = compared(tmp_path, at(0.1)(SUITE), with_properties(case="0")(at(0.9)(SUITE)))
    assert (found.reasons, found.compared) == ([], 0)
    assert found.remarks == [f"{FILE}: another case than the base branch's: its ratios are not compared"]


def test_other_libraries_are_said(tmp_path: Path) -> None:
    found = compared(tmp_path, SUITE, with_properties(torch="2.14.0")(SUITE))
    assert found.remarks == [f"{FILE}: made with torch 2.14.0, and with 2.13.0+cpu on the base branch"]


def test_results_that_cannot_be_read_are_red(tmp_path: Path) -> None:
    compared(tmp_path, SUITE, SUITE)
    (tmp_path / "now" / FILE).write_text("")
    (reason,) = drift(tmp_path / "base", tmp_path / "now", FACTOR).reasons
    assert reason == f"{FILE}: is empty (0 bytes): whatever wrote it was cut off"


def test_sessions_that_this_run_leaves_out_have_not_vanished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pull request that runs a part of the table is compared in that part."""
    words = of_sessions(tmp_path, ("parity", "parity_bf16"), ("parity",))
    assert main(words[:-2]) == 1
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(f"red: parity_bf16/{FILE}: gone")


def of_sessions(folder: Path, then: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    """The command, for a base with these sessions and a run with those, which the manifest names."""
    for place, sessions in (("base", then), ("now", now)):
        for session in sessions:
            junit.write(folder / place / f"results-{session}" / FILE, SUITE)
    save(folder / "manifest.json", replace(MANIFEST, suites=tuple(replace(EXPECTED, session=session) for session in now)))
    words = ["drift", "--base", str(folder / "base"), "--results", str(folder / "now")]
    return [*words, "--manifest", str(folder / "manifest.json")]


def test_a_session_that_nothing_runs_any_more_has_vanished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the table's nor one that has lost its events: the pull request says so, as every later run would."""
    words = of_sessions(tmp_path, ("parity", "parity_old", "cpu_tp2"), ("parity",))
    assert main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"red: session {name}: gone, and it is there on the base branch" for name in ("cpu_tp2", "parity_old")]
    assert main([*words, "--accept", "parity has it all"]) == 0


def test_another_call_of_a_team_may_have_other_layouts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLUMBLINE_LAYOUTS", "tp2")
    assert main(of_sessions(tmp_path, ("cpu_tp2", "cpu_pp2"), ("cpu_tp2",))) == 0
    assert "session cpu_pp2: not in this call, and it is there on the base branch" in capsys.readouterr().out


def test_a_base_that_has_none_of_this_runs_sessions_has_nothing_to_compare(tmp_path: Path) -> None:
    assert main(of_sessions(tmp_path, ("parity_bf16",), ("parity",))) == 0


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "now")]
    compared(tmp_path, SUITE, SUITE)
    assert main(words) == 0
    assert capsys.readouterr().out == "===== Drift: GREEN (2 checks compared, 0 grown, 0 vanished, 0 new) =====\n"
    compared(tmp_path, at(0.1)(SUITE), at(0.9)(SUITE))
    assert main(words) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"red: {FILE}: Layer 0 Query (mla): 0.9 of its limit")
    assert said.endswith("===== Drift: RED (2 checks compared, 1 grown, 0 vanished, 0 new) =====\n")


def test_drift_can_be_accepted_with_a_reason_and_is_still_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared(tmp_path, at(0.1)(SUITE), at(0.9)(SUITE))
    words = ["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "now")]
    assert main([*words, "--accept", "another order of sums"]) == 0
    assert capsys.readouterr().out.startswith(f"accepted: {FILE}: Layer 0 Query")
    assert main([*words, "--accept", " "]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--factor", "0.5"], "--factor 0.5: give a number of 1 or more"),
        (["--factor", "nan"], "--factor nan: give a number of 1 or more"),
        (["--factor", "inf"], "--factor inf: give a number of 1 or more"),
        (["--base", "none"], "--base none: no results are there; keep those of a green run with python -m ci baseline"),
        (["--manifest", "none.json"], "none.json: No such file or directory; write it with python -m ci manifest"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(tmp_path, SUITE, SUITE)
    assert main(["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "now"), *words]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_a_baseline_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compared(tmp_path, SUITE, SUITE)
    (tmp_path / "base" / FILE).write_text("")
    assert main(["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "now")]) == 2
    assert f"--base: {FILE}: is empty (0 bytes)" in capsys.readouterr().err


def test_the_constants_are_those_of_the_text() -> None:
    """The measurement stands in the module's docstring."""
    assert (FACTOR, MEASURABLE_IN_FP64, MEASURABLE_ABOVE_FLOOR) == (2.0, 1e-3, 0.1)
