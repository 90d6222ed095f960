"""What the gate lets a known bug excuse: its own checks, in its own versions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.expected import Excuse, Manifest, load, save
from ci.junit import Check
from ci.reasons import UNEXPECTED
from tests.ci.green import CHECKS, COMMIT, EXPECTED, FILE, OF_BUG, SUITE, limited, verdict, with_check


def test_a_bug_excuses_in_its_versions_alone(tmp_path: Path) -> None:
    """And an entry whose versions are no versions excuses nothing."""
    for versions, red in (("<=0.16.1", False), ("<0.16.1", True), ("soon", True), ("", False)):
        excuses = tuple(replace(bug, megatron_core=versions) for bug in EXPECTED.excuses)
        junit.write(tmp_path / FILE, SUITE)
        found = verdict(tmp_path, Manifest((replace(EXPECTED, excuses=excuses),), COMMIT, "false"))
        assert bool(found.reasons) is red, versions


def test_of_several_bugs_the_one_that_is_said_excuses(tmp_path: Path) -> None:
    """By what it is called and by the check; the other one's checks are not its own."""
    known = EXPECTED.excuses[0]
    other = Excuse("something else", "<=0.16.1", frozenset({("mla", "Layer 0 Query")}), 5.0)
    junit.write(tmp_path / FILE, SUITE)
    assert verdict(tmp_path, Manifest((replace(EXPECTED, excuses=(other, known)),), COMMIT, "false")).green
    skipped = with_check(1, status="known", message=CHECKS[3].message)(SUITE)
    junit.write(tmp_path / FILE, skipped)
    assert not verdict(tmp_path, Manifest((replace(EXPECTED, excuses=(other, known)),), COMMIT, "false")).green


def test_the_first_bug_that_a_message_names_is_the_one(tmp_path: Path) -> None:
    """What follows may quote another."""
    said = f"{CHECKS[3].message}; not the known upstream bug: something else"
    junit.write(tmp_path / FILE, with_check(3, message=said)(SUITE))
    assert verdict(tmp_path).green
    junit.write(tmp_path / FILE, with_check(3, message=f"KNOWN: a - known upstream bug: b; {CHECKS[3].message}")(SUITE))
    assert not verdict(tmp_path).green


def test_where_no_version_is_said_nothing_is_excused(tmp_path: Path) -> None:
    """Nobody knows which bugs it has."""
    properties = {name: value for name, value in SUITE.properties.items() if name != "megatron-core"}
    junit.write(tmp_path / FILE, replace(SUITE, properties=properties))
    said = [why for _, why in verdict(tmp_path).reasons]
    assert said[0] == "made with megatron-core absent, and ==0.16.1 is required"
    assert any("Layer 0 Gradient" in why for why in said)


@pytest.mark.parametrize(
    ("near_ties", "without", "tolerance", "green"),
    [
        (True, "0.1", "0.0", True),
        (True, "inf", "0.0", False),
        (True, "2e-10", "1e-10", False),
        (True, "1e-10", "1e-10", True),
        (False, "0.1", "0.0", False),
        (False, "0.0", "0.0", True),
    ],
)
def test_without_the_bug_a_router_s_choice_alone_may_be_a_near_tie(
    tmp_path: Path, near_ties: bool, without: str, tolerance: str, green: bool
) -> None:
    """As where no bug is known: what a pass may be, the second run may be, and at its limit it is."""
    names = frozenset({(CHECKS[3].component, CHECKS[3].name)}) if near_ties else frozenset()
    said = {**OF_BUG, "rel_error_without": without, "tolerance": tolerance}
    junit.write(tmp_path / FILE, with_check(3, properties=said)(SUITE))
    assert verdict(tmp_path, Manifest((replace(EXPECTED, near_ties=names),), COMMIT, "false")).green is green


@pytest.mark.parametrize(("limit", "tolerance", "green"), [(0.5, "0.5", True), (0.5, "0.51", False)])
def test_without_the_bug_no_limit_is_wider_than_the_manifest_s(
    tmp_path: Path, limit: float, tolerance: str, green: bool
) -> None:
    said = {**OF_BUG, "rel_error_without": "0.2", "tolerance": tolerance}
    junit.write(tmp_path / FILE, with_check(3, properties=said)(SUITE))
    assert verdict(tmp_path, Manifest((limited(limit),), COMMIT, "false")).green is green


@pytest.mark.parametrize(
    ("error", "at_most", "green"),
    [
        ("5.0", 5.0, True),
        ("5.1", 5.0, False),
        ("nan", 5.0, False),
        ("inf", 5.0, False),
        ("1e300", math.inf, True),
        ("inf", math.inf, True),
        ("nan", math.inf, True),
        ("no number", math.inf, False),
    ],
)
def test_a_bug_excuses_an_error_of_its_size(tmp_path: Path, error: str, at_most: float, green: bool) -> None:
    """NaN has none: only a bug that leaves whatever stands in the memory excuses it. The manifest says which does."""
    bug = replace(EXPECTED.excuses[0], at_most=at_most)
    save(tmp_path / "manifest.json", Manifest((replace(EXPECTED, excuses=(bug,)),), COMMIT, "false"))
    junit.write(tmp_path / FILE, with_check(3, properties={**OF_BUG, "rel_error": error})(SUITE))
    found = [why for _, why in verdict(tmp_path, load(tmp_path / "manifest.json")).reasons]
    said = "1 check is skipped: Layer 0 Gradient (gradients) for a known upstream bug that does not make as large an error"
    assert found == ([] if green else [said])


@pytest.mark.parametrize(("at_most", "green"), [(math.inf, True), (5.0, False)])
def test_a_bug_that_leaves_anything_may_have_ended_the_first_run(tmp_path: Path, at_most: float, green: bool) -> None:
    """The check that says so compares no tensor."""
    bug = replace(
        EXPECTED.excuses[0], at_most=at_most, checks=frozenset({("run", CHECKS[0].name), *EXPECTED.excuses[0].checks})
    )
    junit.write(tmp_path / FILE, with_check(0, status="known", message=CHECKS[3].message)(SUITE))
    assert verdict(tmp_path, Manifest((replace(EXPECTED, excuses=(bug,)),), COMMIT, "false")).green is green


def test_several_checks_that_a_bug_does_not_make_right_are_said_as_several(tmp_path: Path) -> None:
    more = replace(CHECKS[3], name="Layer 1 Gradient")
    names = [(check.component, check.name) for check in (CHECKS[3], more)]
    excuses = tuple(replace(bug, checks=frozenset(names)) for bug in EXPECTED.excuses)
    wrong = [replace(check, properties={**OF_BUG, "rel_error_without": "0.3"}) for check in (CHECKS[3], more)]
    junit.write(tmp_path / FILE, replace(SUITE, checks=(*CHECKS[:3], *wrong)))
    expected = replace(EXPECTED, checks=(*EXPECTED.checks[:3], *names), excuses=excuses)
    (reason,) = verdict(tmp_path, Manifest((expected,), COMMIT, "false")).reasons
    assert reason[1] == (
        "2 checks are skipped: Layer 0 Gradient (gradients), Layer 1 Gradient (gradients) for a known upstream bug "
        "without a number that shows that it passes once the bug is taken out"
    )


def test_no_check_is_compared_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may have 100,000: what fails, what is known and what is excused is told from each check alone."""
    bug = CHECKS[3]
    expected_to_fail = replace(bug, status="fail", name="Layer 1 Gradient", message=f"FAIL: it {UNEXPECTED}")
    unlisted = replace(bug, name="Layer 2 Gradient", message="KNOWN: another")
    wrong = replace(CHECKS[1], status="fail", name="Layer 3 Query", message="FAIL: wrong")
    junit.write(tmp_path / FILE, replace(SUITE, checks=(*CHECKS, expected_to_fail, unlisted, wrong)))
    monkeypatch.setattr(Check, "__eq__", lambda self, other: pytest.fail("checks were compared"))
    reasons = [why for _, why in verdict(tmp_path).reasons]
    assert [why for why in reasons if why.startswith("1 check of a known upstream bug passes: Layer 1 Gradient")]
    assert [why for why in reasons if why.startswith("1 check is skipped: Layer 2 Gradient")]
    assert [why for why in reasons if why.startswith("1 check fails: Layer 3 Query")]
