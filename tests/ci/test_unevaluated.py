"""What was not evaluated because something else failed is no failure of its own, and makes nothing green."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import attempts, heat, junit
from ci.drift import ratio
from ci.expected import Manifest, save
from ci.junit import UNEVALUATED, Check, Suite
from ci.outcomes import read_cell
from ci.reasons import is_red
from tests.ci.green import CHECKS, COMMIT, EXPECTED, FILE, MANIFEST, SUITE, command_line, of_changed, verdict, with_check

WHY = "not evaluated: the run did not finish"
BEHIND = with_check(2, status=UNEVALUATED, message=f"{WHY}\nand more", properties={})
FAILED = with_check(1, status="fail", message="FAIL: Layer 0 Query")
SAID = f"1 check was not evaluated: Layer 0 Key (mla) ({WHY})"


def both(session: str, other: str = "other.xml") -> Manifest:
    """A manifest of two testsuites, the second of another name and session."""
    second = replace(EXPECTED, file=other, name="other", session=session)
    return Manifest((EXPECTED, second), COMMIT, "false")


def test_alone_it_is_red(tmp_path: Path) -> None:
    assert of_changed(tmp_path, BEHIND) == [SAID]
    assert of_changed(tmp_path, with_check(2, status=UNEVALUATED, properties={})) == [SAID.partition(" (not")[0]]
    undecided = [SAID.partition(" (not")[0].replace("was not evaluated", "could not be decided")]
    assert of_changed(tmp_path, with_check(2, status="error", properties={})) == undecided


def test_several_are_counted(tmp_path: Path) -> None:
    more = with_check(0, status=UNEVALUATED, message=WHY)
    assert of_changed(tmp_path, lambda suite: more(BEHIND(suite))) == [
        f"2 checks were not evaluated: Every rank finishes (run), Layer 0 Key (mla) ({WHY})"
    ]


@pytest.mark.parametrize("status", ["fail", "error"])
def test_beside_what_failed_it_is_no_reason_of_its_own(tmp_path: Path, status: str) -> None:
    failed = with_check(1, status=status, message="the cause")
    (why,) = of_changed(tmp_path, lambda suite: failed(BEHIND(suite)))
    assert "the cause" in why
    assert "not evaluated" not in why


def test_the_other_testsuite_of_the_session_says_why(tmp_path: Path) -> None:
    """As the self-test does whose case fails without the defect: the case itself is the one red."""
    junit.write(tmp_path / FILE, BEHIND(SUITE))
    junit.write(tmp_path / "other.xml", replace(FAILED(SUITE), name="other"))
    assert [where for where, _ in verdict(tmp_path, both("")).reasons] == ["other.xml"]


def test_a_failure_of_another_session_explains_nothing(tmp_path: Path) -> None:
    for session, suite in (("", BEHIND(SUITE)), ("else", replace(FAILED(SUITE), name="other"))):
        junit.write(tmp_path / f"results-{session or 'here'}" / (FILE if not session else "other.xml"), suite)
    manifest = both("else")
    manifest = replace(manifest, suites=(replace(EXPECTED, session="here"), manifest.suites[1]))
    assert [why for where, why in verdict(tmp_path, manifest).reasons if where == f"results-here/{FILE}"] == [SAID]


def test_a_run_that_broke_is_one_reason(tmp_path: Path) -> None:
    """One error for the run; neither the checks behind it nor the ranks that left nothing are told again."""
    checks = [replace(check, status=UNEVALUATED, message=WHY, properties={}) for check in CHECKS[1:]]
    broke = replace(
        CHECKS[0], status="error", message="ERROR: Every rank finishes - rank 1 raised ValueError", failure="exception"
    )
    properties = {**SUITE.properties, "broken": "1"}
    assert of_changed(tmp_path, lambda suite: replace(suite, checks=(broke, *checks), properties=properties)) == [
        f"1 check could not be decided: Every rank finishes (run) ({broke.message})"
    ]


def test_a_run_that_broke_and_lost_its_error_is_red(tmp_path: Path) -> None:
    """Whoever takes the error out leaves ranks that are silent and checks that nobody evaluated."""
    checks = [replace(check, status=UNEVALUATED, message=WHY, properties={}) for check in CHECKS[1:]]
    properties = {**SUITE.properties, "broken": "4"}
    reasons = of_changed(tmp_path, lambda suite: replace(suite, checks=(CHECKS[0], *checks), properties=properties))
    assert [why.partition(":")[0] for why in reasons] == [
        "2 ranks are declared, and nothing is there of rank 0, 1",
        "3 checks were not evaluated",
    ]


def test_counts_and_the_map_show_it_apart(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, BEHIND(SUITE))
    found = verdict(tmp_path)
    assert found.counted == "1 testsuite, 4 checks: 2 pass, 1 not evaluated, 1 with a known upstream bug"
    assert "– 1" in heat.table(found.suites)


def test_the_command_is_red_and_no_baseline_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ci.cli import main

    save(tmp_path / "manifest.json", MANIFEST)
    junit.write(tmp_path / "results" / FILE, BEHIND(SUITE))
    words = command_line(tmp_path, anew=False)
    assert main(["gate", *words]) == 1
    assert main(["baseline", *words, "--output", str(tmp_path / "base")]) == 1
    assert not (tmp_path / "base").exists()
    assert capsys.readouterr().out.count(SAID) == 2


def test_it_has_no_ratio_whatever_numbers_stand_there() -> None:
    check = replace(CHECKS[1], status=UNEVALUATED)
    assert ratio(CHECKS[1]) == pytest.approx(2.5e-5)
    assert (ratio(check), ratio(check, failed=True)) == (None, None)


def test_an_attempt_with_it_may_be_repeated_and_a_verdict_may_not() -> None:
    assert attempts.final(BEHIND(SUITE)) == ""
    assert attempts.final(FAILED(BEHIND(SUITE))).startswith("holds a verdict")


def test_a_release_of_which_it_tells_nothing_is_run_again() -> None:
    with pytest.raises(junit.UnreadableResults, match="the run did not finish"):
        read_cell(BEHIND(SUITE))


def test_a_skip_of_another_type_is_none(tmp_path: Path) -> None:
    junit.write(tmp_path / FILE, BEHIND(SUITE))
    text = (tmp_path / FILE).read_text()
    assert 'type="not evaluated"' in text
    (tmp_path / FILE).write_text(text.replace('type="not evaluated"', 'type="unevaluated"'))
    with pytest.raises(junit.UnreadableResults, match="not one verdict"):
        junit.read(tmp_path / FILE)


def test_is_red_looks_at_every_check() -> None:
    last = Suite("a", (*CHECKS, Check("mla", "b", "error")), {})
    assert is_red(last)
    assert not is_red(BEHIND(SUITE))
