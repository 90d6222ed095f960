"""Nothing old counts: results of a session are of one run, and what others have left makes them neither green nor red."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit, run
from ci.cli import main
from ci.expected import Manifest, save
from ci.folder import Results
from ci.junit import Suite
from tests.ci.green import COMMIT, EXPECTED, FILE, SUITE, verdict, with_check

OLD, NEW = "2026-01-31T12:00:00.000+00:00 a", "2026-01-31T12:00:01.000+00:00 a"
OTHER = "tiny-pp2-fp64-local-gloo.xml"
SELF_TEST = "self-test-tiny-tp2-fp64-local-gloo.xml"
ANOTHER_RUN = f"is of the run {OLD}, and its session of the run {NEW}: run the whole session again"
OF_NONE = "names no run: nothing ties it to the other results; run the whole session again with this Plumbline"
FAILED = with_check(1, status="fail", message="FAIL: a")(SUITE)


def of_run(name: str | None, suite: Suite = SUITE) -> Suite:
    """The testsuite as that run has left it; empty for none."""
    return replace(suite, properties={**suite.properties, "run": name or ""})


def manifest(*sessions: str, files: tuple[str, ...] = (FILE,)) -> Manifest:
    """Sessions that must leave these files each."""
    suites = [replace(EXPECTED, session=session, file=file) for session in sessions for file in files]
    return Manifest(tuple(suites), COMMIT, "false")


def leave(folder: Path, **runs: str | None) -> Path:
    """Results in a folder: the files that are named are of these runs."""
    for name, one in runs.items():
        junit.write(folder / {"tp2": FILE, "pp2": OTHER, "self_test": SELF_TEST}[name], of_run(one))
    return folder


TWO = manifest("", files=(FILE, OTHER))


def test_results_of_one_run_are_green(tmp_path: Path) -> None:
    assert verdict(leave(tmp_path, tp2=NEW, pp2=NEW), TWO).green


@pytest.mark.parametrize("session", ["", "a"])
@pytest.mark.parametrize(("old", "said"), [(OLD, ANOTHER_RUN), ("", OF_NONE), (f"{NEW} b", OF_NONE), ("~", OF_NONE)])
def test_a_file_of_an_earlier_run_is_red(tmp_path: Path, session: str, old: str, said: str) -> None:
    """A run of fewer layouts, or one that was killed, leaves the others as they were."""
    folder = leave(tmp_path / (f"results-{session}" if session else ""), tp2=NEW, pp2=old)
    where = str((folder / OTHER).relative_to(tmp_path))
    found = verdict(tmp_path, manifest(session, files=(FILE, OTHER)))
    assert found.reasons == ((where, said),)


def test_files_of_which_none_names_a_run_are_red(tmp_path: Path) -> None:
    """Nothing ties them together: each may be as old as it likes."""
    assert verdict(leave(tmp_path, tp2="", pp2=""), TWO).reasons == ((FILE, OF_NONE), (OTHER, OF_NONE))


def test_the_later_run_is_told_by_when_it_began_and_not_by_the_order_of_files(tmp_path: Path) -> None:
    assert verdict(leave(tmp_path, tp2=OLD, pp2=NEW), TWO).reasons == ((FILE, ANOTHER_RUN),)


def test_sessions_are_runs_of_their_own(tmp_path: Path) -> None:
    """On a developer's machine they lie in one folder, or in one each as GitHub hands them over."""
    sessions = Manifest((replace(EXPECTED, session="a"), replace(EXPECTED, session="b", file=OTHER)), COMMIT, "false")
    assert verdict(leave(tmp_path, tp2=OLD, pp2=NEW), sessions).green
    leave(tmp_path / "results-a", tp2=OLD)
    leave(tmp_path / "results-b", pp2=NEW)
    assert verdict(tmp_path, sessions).green


@pytest.mark.parametrize("said", ["b", "a:b", "a"])
def test_a_file_that_another_session_wrote_is_red_in_a_session_s_folder(tmp_path: Path, said: str) -> None:
    """Two machines run the same cases, and one artifact was handed over twice."""
    suite = of_run(NEW, replace(SUITE, properties={**SUITE.properties, "session": said}))
    of_b = f"is of the session {said}: give each session's folder what this session left"
    for folder, session, wanted in (("results-a", "a", [of_b] if said != "a" else []), ("", "b", [])):
        junit.write(tmp_path / said / folder / FILE, suite)
        assert [why for _, why in verdict(tmp_path / said, manifest(session)).reasons] == wanted


SHARED = Manifest(
    (*manifest("a", files=(FILE, SELF_TEST)).suites, *manifest("b", files=(OTHER, SELF_TEST)).suites), COMMIT, "false"
)


@pytest.mark.parametrize(("of", "green"), [(NEW, True), (OLD, True), ("2026-01-30T", False), (None, False)])
def test_a_file_that_two_sessions_write_is_of_one_of_them(tmp_path: Path, of: str | None, green: bool) -> None:
    """In one folder `cpu_tp2` and `cpu_tp2ep2` have one self-test: that of the later one."""
    assert verdict(leave(tmp_path, tp2=OLD, pp2=NEW, self_test=of), SHARED).green is green


def test_a_session_of_which_all_files_are_another_s_too_is_of_their_last_run(tmp_path: Path) -> None:
    """`cpu_tp2` after `parity`, which has tp2, too."""
    both = Manifest((*manifest("parity", files=(FILE, OTHER)).suites, *manifest("cpu_tp2").suites), COMMIT, "false")
    assert verdict(leave(tmp_path, tp2=NEW, pp2=OLD), both).green


Leave = Callable[[Path], object]
LEFTOVERS: dict[str, Leave] = {
    "an attempt of an earlier command": lambda at: junit.write(at / "attempts" / "1" / FILE, of_run(OLD, FAILED)),
    "a seventh attempt": lambda at: junit.write(at / "attempts" / "7" / FILE, of_run(OLD, FAILED)),
    "an attempt at another case": lambda at: junit.write(at / "attempts" / "1" / OTHER, of_run(OLD, FAILED)),
    "a report from before": lambda at: junit.write(at / "before" / FILE, of_run(NEW, FAILED)),
    "what ranks left": lambda at: junit.write(at / "debug" / FILE / FILE, of_run(NEW, FAILED)),
    "no XML": lambda at: (at / "notes.txt").write_text("a"),
    "a part of a file": lambda at: (at / f".{FILE}.part").write_text("<testsuite"),
}
STRANGERS: dict[str, Leave] = {
    "an artifact of another job": lambda at: junit.write(at / "results-unit" / "junit.xml", FAILED),
    "an artifact with a longer name": lambda at: junit.write(at / "results-a-extra" / FILE, FAILED),
    "an artifact with a shorter name": lambda at: junit.write(at / "results-" / FILE, FAILED),
    "an artifact of another call": lambda at: junit.write(at / "plumbline-x.results-a" / FILE, FAILED),
    "a unit test's file": lambda at: (at / "junit.xml").write_text('<testsuites><testsuite name="unit"/></testsuites>'),
    "no JUnit file": lambda at: (at / "coverage.xml").write_text("<coverage/>"),
    "an empty file": lambda at: (at / "empty.xml").touch(),
    "a link": lambda at: (at / "link.xml").symlink_to("/nowhere"),
    "another session's file": lambda at: junit.write(at / OTHER, of_run(OLD, FAILED)),
    "another session that did not finish": lambda at: junit.write_unfinished(at / OTHER, "tiny-pp2", {"run": OLD}),
}


@pytest.mark.parametrize("left", [*LEFTOVERS.values(), *STRANGERS.values()], ids=[*LEFTOVERS, *STRANGERS])
def test_what_others_left_in_a_flat_folder_makes_nothing_green_or_red(tmp_path: Path, left: Leave) -> None:
    left(leave(tmp_path, tp2=NEW))
    assert verdict(tmp_path, manifest("a")).green
    assert verdict(tmp_path, manifest("")).green
    (tmp_path / FILE).unlink()
    assert [where for where, _ in verdict(tmp_path, manifest("")).reasons] == [FILE]


@pytest.mark.parametrize(
    ("left", "inside"),
    [*((left, True) for left in LEFTOVERS.values()), *((left, False) for left in STRANGERS.values())],
    ids=[*LEFTOVERS, *STRANGERS],
)
def test_so_it_is_where_sessions_have_folders(tmp_path: Path, left: Leave, inside: bool) -> None:
    folder = leave(tmp_path / "results-a", tp2=NEW)
    left(folder if inside else tmp_path)
    assert verdict(tmp_path, manifest("a")).green
    junit.write(folder / FILE, of_run(NEW, FAILED))
    assert len(verdict(tmp_path, manifest("a")).reasons) == 1
    (folder / FILE).unlink()
    assert [where for where, _ in verdict(tmp_path, manifest("a")).reasons] == [f"results-a/{FILE}"]


def test_results_beside_another_job_s_artifact_are_found(tmp_path: Path) -> None:
    """A folder called results-... does not mean that sessions have folders, if none of the manifest's has."""
    (tmp_path / "results-unit").mkdir()
    assert not Results(tmp_path).of([""]).by_session
    assert not Results(tmp_path).of(["a"]).by_session
    (tmp_path / "results-a").mkdir()
    assert Results(tmp_path).of(["a", ""]).by_session


@pytest.mark.parametrize("session", ["", "a"])
@pytest.mark.parametrize("left", [*LEFTOVERS.values(), *STRANGERS.values()], ids=[*LEFTOVERS, *STRANGERS])
def test_drift_baseline_and_page_see_what_the_gate_sees(
    tmp_path: Path, left: Leave, session: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the other session is in neither, though it is there."""
    save(tmp_path / "manifest.json", manifest(session))
    leave(tmp_path / "results", tp2=NEW)
    common = ["--manifest", str(tmp_path / "manifest.json"), "--results", str(tmp_path / "results")]
    base = str(tmp_path / "base")
    assert main(["baseline", *common, "--output", base]) == 0
    left(tmp_path / "results")
    assert main(["drift", *common, "--base", base]) == 0
    assert capsys.readouterr().out.endswith("===== Drift: GREEN (2 checks compared, 0 grown, 0 vanished, 0 new) =====\n")
    assert main(["baseline", *common, "--output", base]) == 0
    assert sorted(path.name for path in Path(base).iterdir()) == ["baseline.json", FILE]
    assert main(["page", *common, "--output", str(tmp_path / "page.html")]) == 0
    assert f"{tmp_path / 'page.html'}: pass, 4 checks in 1 case\n" in capsys.readouterr().out


def test_what_the_base_has_and_the_manifest_has_not_is_gone_though_an_old_file_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A session that has lost a layout has, whatever an earlier run left in its place."""
    save(tmp_path / "manifest.json", manifest(""))
    leave(tmp_path / "base", tp2=OLD, pp2=OLD)
    leave(tmp_path / "results", tp2=NEW, pp2=OLD)
    words = ["--base", str(tmp_path / "base"), "--results", str(tmp_path / "results")]
    assert main(["drift", *words, "--manifest", str(tmp_path / "manifest.json")]) == 1
    assert capsys.readouterr().out.startswith(f"red: {OTHER}: gone")


def test_a_page_without_a_manifest_leaves_out_attempts_and_earlier_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("an attempt of an earlier command", "a report from before", "what ranks left"):
        LEFTOVERS[name](leave(tmp_path / "results" / "results-a", tp2=NEW))
    words = ["page", "--results", str(tmp_path / "results"), "--output", str(tmp_path / "page.html")]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}: pass, 4 checks in 1 case\n"
    assert "<dt>Runs</dt>" not in (tmp_path / "page.html").read_text()
    leave(tmp_path / "results" / "results-b", tp2=OLD)
    assert main(words) == 0
    assert (
        "<dt>Runs</dt><dd><bdi>2, from 2026-01-31T12:00:00 to 2026-01-31T12:00:01</bdi></dd>"
        in (tmp_path / "page.html").read_text()
    )


def test_runs_differ_and_come_in_the_order_of_time() -> None:
    found = [run.begun({}) for _ in range(3)]
    assert len(set(found)) == 3
    assert [one.partition(" ")[0] for one in found] == sorted(one.partition(" ")[0] for one in found)


def test_a_run_is_named_by_when_it_began_in_utc_and_a_number() -> None:
    """To a millisecond: runs of two machines are ordered, too."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 [0-9a-f]{16}", run.begun({}))


@pytest.mark.parametrize("pid", [1, os.getpid(), "", "x"], ids=["init", "this", "none", "word"])
def test_a_run_that_somebody_exports_for_all_commands_is_none(pid: object) -> None:
    """Only the process that started this one says which run it is part of."""
    if pid != os.getppid():
        assert run.begun({"PLUMBLINE_RUN": f"{pid} {OLD}"}) != OLD
    assert run.begun({"PLUMBLINE_RUN": f"{os.getppid()} {OLD}"}) == OLD


def test_a_session_that_github_ran_again_is_a_run_beside_those_that_it_did_not(tmp_path: Path) -> None:
    """`Re-run failed jobs` leaves the artifacts of the others as they were."""
    first, again = of_run(OLD), of_run(NEW)
    junit.write(tmp_path / "results-a" / FILE, first)
    junit.write(tmp_path / "results-b" / FILE, replace(again, properties={**again.properties, "workflow_attempt": "2"}))
    assert verdict(tmp_path, manifest("a", "b")).green


def test_an_artifact_of_which_github_replaced_a_part_is_red(tmp_path: Path) -> None:
    """A session that ran again and left one file of two beside what its first attempt left."""
    junit.write(tmp_path / "results-a" / FILE, of_run(OLD))
    junit.write(tmp_path / "results-a" / OTHER, of_run(NEW))
    assert verdict(tmp_path, manifest("a", files=(FILE, OTHER))).reasons == ((f"results-a/{FILE}", ANOTHER_RUN),)
