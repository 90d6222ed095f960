"""Drift and baseline at their edges: several of a kind, ratios exactly at what is allowed, how much is shown."""

from __future__ import annotations

import errno
import os
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest

from ci import drift as drift_
from ci import junit
from ci.cli import main
from ci.drift import FACTOR, Drift, Moved, add_base, add_options, drift, told
from ci.expected import save
from ci.junit import STATUSES, Suite
from tests.ci.green import EXPECTED, FILE, MANIFEST, SUITE, command_line, with_check

MORE = "tiny-pp2-fp64-local-gloo.xml"


def at(*ratios: float) -> Suite:
    """The suite with its second check, and perhaps its third, at so much of their limits, which are powers of two."""
    suite = SUITE
    for place, ratio in enumerate(ratios, start=1):
        suite = with_check(place, properties={"rel_error": repr(ratio * 0.5), "tolerance": "0.5", "ranks": "0,1"})(suite)
    return suite


def two(folder: Path, then: Suite, now: Suite) -> list[str]:
    """Two files of these suites on each side; the words of the command."""
    for file in (FILE, MORE):
        junit.write(folder / "base" / file, then)
        junit.write(folder / "now" / file, now)
    return ["drift", "--base", str(folder / "base"), "--results", str(folder / "now")]


def test_several_files_add_up(tmp_path: Path) -> None:
    """What has grown, what is compared, gone, new and said of each."""
    then, now = at(0.125, 0.125), at(0.5, 0.5)
    two(tmp_path, then, replace(now, properties={**now.properties, "torch": "2.14.0"}))
    found = drift(tmp_path / "base", tmp_path / "now", FACTOR)
    assert (len(found.grown), found.compared, len(found.remarks)) == (4, 4, 2)
    gone = replace(SUITE, checks=(*SUITE.checks[:2], replace(SUITE.checks[2], name="Layer 9 Key"), SUITE.checks[3]))
    two(tmp_path, SUITE, gone)
    found = drift(tmp_path / "base", tmp_path / "now", FACTOR)
    assert found.vanished == [f"{file}: Layer 0 Key (mla)" for file in (MORE, FILE)]
    assert found.appeared == [f"{file}: Layer 9 Key (mla)" for file in (MORE, FILE)]
    for file in (FILE, MORE):
        (tmp_path / "now" / file).write_text("")
    assert len(drift(tmp_path / "base", tmp_path / "now", FACTOR).unreadable) == 2


@pytest.mark.parametrize(("now", "red"), [(0.5, False), (0.500001, True), (0.75, True)])
def test_exactly_twice_is_allowed(tmp_path: Path, now: float, red: bool) -> None:
    two(tmp_path, at(0.25), at(now))
    assert bool(drift(tmp_path / "base", tmp_path / "now", 2.0).reasons) is red


def test_a_factor_of_one_allows_no_growth(tmp_path: Path) -> None:
    """And is the smallest that can be meant."""
    two(tmp_path, at(0.25), at(0.25))
    assert drift(tmp_path / "base", tmp_path / "now", 1.0).reasons == []
    two(tmp_path, at(0.25), at(0.250001))
    assert len(drift(tmp_path / "base", tmp_path / "now", 1.0).reasons) == 2


def test_what_has_grown_most_comes_first_and_what_is_no_number_before_it() -> None:
    """By how many times, not by how much."""
    moved = [Moved("a", "some", 0.25, 0.75), Moved("a", "most", 0.4, 1.6), Moved("a", "none", 0.01, float("nan"))]
    found = Drift(grown=moved)
    assert [reason.split(": ")[1] for reason in found.reasons] == ["none", "most", "some"]


def test_what_is_red_comes_in_its_order() -> None:
    """What cannot be read, what is gone, what has grown."""
    found = Drift(grown=[Moved("a", "grown", 0.1, 0.9)], vanished=["gone"], unreadable=["unreadable"])
    assert [reason.partition(":")[0] for reason in found.reasons] == ["unreadable", "gone", "a"]
    assert replace(found, accepted="why").reasons == []
    assert replace(found, accepted="why").found == found.reasons


@pytest.mark.parametrize("more", [0, 1])
def test_a_log_shows_two_hundred_lines_and_twenty_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: int) -> None:
    for count in range(200 + more):
        junit.write(tmp_path / "base" / f"{count}.xml", SUITE)
    for count in range(20 + more):
        junit.write(tmp_path / "now" / f"new-{count}.xml", SUITE)
    assert main(["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "now")]) == 1
    said = capsys.readouterr().out
    assert (said.count("red: "), said.count(": new\n")) == (200, 20)
    assert f"0 grown, {200 + more} vanished, {20 + more} new" in said


def test_a_long_line_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At five hundred characters, of what is red and of what is only said."""
    long = "n" * 1200
    then = with_check(1, name=long)(SUITE)
    now = replace(SUITE, properties={**SUITE.properties, "torch": long})
    for place, suite in (("base", then), ("now", now)):
        junit.write(tmp_path / place / FILE, suite)
    main(["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "now")])
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.removeprefix("red: ")) for line in lines if line.endswith("…")] == [500, 500]


def test_sessions_beside_files_that_vanished_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that nothing runs, in order, and then files of one that is run."""
    for session in ("b", "a", "parity"):
        junit.write(tmp_path / "base" / f"results-{session}" / FILE, SUITE)
    (tmp_path / "now" / "results-parity").mkdir(parents=True)
    wanted = frozenset({("parity", FILE)})
    found = drift(tmp_path / "base", tmp_path / "now", FACTOR, wanted)
    assert found.vanished == ["session a", "session b", f"parity/{FILE}"]
    monkeypatch.setattr(drift_, "running", lambda: None)
    found = drift(tmp_path / "base", tmp_path / "now", FACTOR, wanted)
    assert [remark.partition(":")[0] for remark in found.remarks] == ["session a", "session b"]
    assert found.vanished == [f"parity/{FILE}"]


def test_results_lie_as_the_base_s_do(tmp_path: Path) -> None:
    """A file beside the folders of sessions is none of a session's."""
    junit.write(tmp_path / "base" / "results-parity" / FILE, SUITE)
    junit.write(tmp_path / "now" / FILE, SUITE)
    found = drift(tmp_path / "base", tmp_path / "now", FACTOR)
    assert (found.vanished, found.appeared) == ([f"parity/{FILE}"], [])


def test_in_a_flat_folder_a_session_s_files_are_found_by_their_names(tmp_path: Path) -> None:
    """As a run on one's own machine leaves them."""
    two(tmp_path, SUITE, SUITE)
    found = drift(tmp_path / "base", tmp_path / "now", FACTOR, frozenset({("parity", FILE)}))
    assert (found.compared, found.vanished) == (2, [MORE])


def by_options(folder: Path, *words: str) -> Drift | None:
    """What others that tell of a run are told of its drift."""
    parser = ArgumentParser()
    add_options(parser)
    return told(parser.parse_args(["--base", str(folder / "base"), "--results", str(folder / "now"), *words]))


def test_those_that_tell_of_a_run_are_told_of_the_manifest_s_files_alone(tmp_path: Path) -> None:
    """By its factor and its reason; what the manifest does not name is as if it were not there."""
    two(tmp_path, at(0.125), at(0.5))
    assert by_options(tmp_path) == drift(tmp_path / "base", tmp_path / "now", FACTOR)
    save(tmp_path / "m.json", MANIFEST)
    named = by_options(tmp_path, "--manifest", str(tmp_path / "m.json"), "--accept", " why ")
    assert named is not None
    assert (len(named.grown), named.vanished, named.accepted) == (1, [MORE], "why")
    wide = by_options(tmp_path, "--factor", "8")
    assert wide is not None
    assert wide.grown == []


def test_without_a_base_or_a_manifest_that_can_be_read_nothing_is_told(tmp_path: Path) -> None:
    """The gate is red for the latter."""
    two(tmp_path, SUITE, SUITE)
    assert by_options(tmp_path, "--manifest", str(tmp_path / "none")) is None
    parser = ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--base", "b", "--results", str(tmp_path / "now")])
    options.base = None
    assert told(options) is None


def test_why_nothing_is_kept_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a thousand characters."""
    words = [*command_line(tmp_path), "--output", str(tmp_path / "base")]
    long = "n" * 3000
    save(tmp_path / "manifest.json", replace(MANIFEST, suites=(replace(EXPECTED, properties={"preset": long}),)))
    assert main(["baseline", *words]) == 1
    assert len(capsys.readouterr().out.removeprefix("Nothing is kept: ").rstrip("\n")) == 1000


def test_what_an_earlier_attempt_to_keep_left_is_not_kept(tmp_path: Path) -> None:
    """Its half of a baseline beside the place of the whole one."""
    words = [*command_line(tmp_path), "--output", str(tmp_path / "base")]
    junit.write(tmp_path / ".base.part" / MORE, SUITE)
    assert main(["baseline", *words]) == 0
    assert sorted(path.name for path in (tmp_path / "base").iterdir()) == ["baseline.json", FILE]
    about = (tmp_path / "base" / "baseline.json").read_text(encoding="utf-8")
    assert about.startswith('{\n "commit": "')
    assert about.endswith("\n}\n")


def test_a_disk_without_room_for_the_first_file_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not that there is nothing to clear away."""
    words = [*command_line(tmp_path), "--output", str(tmp_path / "base")]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a")

    monkeypatch.setattr(junit, "write", full)
    assert main(["baseline", *words]) == 3
    assert capsys.readouterr().err.startswith("error: a: no space, or no inode, is left; ")


def test_a_ratio_is_that_of_a_pass_or_of_a_failure_that_is_asked_for() -> None:
    """Of nothing else: the numbers of a known bug are the bug's."""
    (check,) = at(0.25).checks[1:2]
    found = {status: replace(check, status=status) for status in STATUSES}
    assert [status for status, one in found.items() if drift_.ratio(one) is not None] == ["pass"]
    assert [status for status, one in found.items() if drift_.ratio(one, failed=True) == 0.25] == ["pass", "fail"]
    assert [status for status, one in found.items() if drift_.ratio(one, failed=True) is not None] == ["pass", "fail"]


def test_those_that_tell_of_a_run_need_no_base() -> None:
    """With one they take the same rule."""
    parser = ArgumentParser()
    add_base(parser)
    assert vars(parser.parse_args([])) == {"base": None, "accept": "", "factor": FACTOR}
    words = ["--base", "b", "--accept", "why", "--factor", "3"]
    assert vars(parser.parse_args(words)) == {"base": "b", "accept": "why", "factor": 3.0}
