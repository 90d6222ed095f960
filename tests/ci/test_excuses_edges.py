"""What the gate lets a known bug excuse: its own checks, in its own versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ci import junit
from ci.expected import Excuse, Manifest
from tests.ci.green import CHECKS, COMMIT, EXPECTED, FILE, SUITE, verdict, with_check


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
    other = Excuse("something else", "<=0.16.1", frozenset({("validation.checks.test_mla", "Layer 0 Query")}))
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
