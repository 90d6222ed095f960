"""How checks are named in JUnit files: each testcase once in all files of a run, and files of before are understood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit, names
from ci.cli import main
from ci.table import EVENTS, Row, rows
from tests.ci.green import FILE, SUITE
from validation.checks.self_test import SelfTest
from validation.faults.plan import plan_of
from validation.run.options import parsed

OLD = Path(__file__).parent / "fixtures" / "before-components.xml"
"""What `ci.junit` wrote before class names had the case: commit 92b2d45."""


def test_a_class_name_has_the_case_and_the_component() -> None:
    assert names.classname("tiny-tp2-fp64-local-gloo", "", "mla") == "plumbline.tiny-tp2-fp64-local-gloo.mla"


def test_the_session_stands_before_the_case() -> None:
    """Sessions of one run may have a testsuite of the same name: the self-test of what they plant."""
    assert names.classname("self-test-a", "gpu_tp2", "self_test") == "plumbline.gpu_tp2.self-test-a.self_test"


@pytest.mark.parametrize("suite", ["DeepSeek-V3.1-tp2-bf16-te-nccl", "tiny-tp2-fp64-my.spec.layers-gloo"])
def test_a_viewer_that_cuts_at_dots_gets_the_whole_case(suite: str) -> None:
    assert names.classname(suite, "", "mla").split(".") == ["plumbline", suite.replace(".", ":"), "mla"]


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("plumbline.a:b.mla", "mla"),
        ("plumbline.a:b.mine.test_mla", "mine.test_mla"),
        ("validation.checks.test_mla", "mla"),
        ("validation.checks.test_my_component", "my_component"),
        ("validation.checks.test_mla.more", "validation.checks.test_mla.more"),
        ("mine.test_mla", "mine.test_mla"),
        ("......tmp.mine.test_mla", "tmp.mine.test_mla"),
        ("test_mla", "test_mla"),
        ("Xavier.test_mla", "Xavier.test_mla"),
        ("validation", "run"),
        ("validation.convert.compare", "compare"),
        ("validation.scorecard", "scorecard"),
        ("plumbline.another.mla", "plumbline.another.mla"),
        ("", ""),
    ],
)
def test_a_class_name_is_taken_apart(name: str, component: str) -> None:
    assert names.component("a.b", "", name) == component


def test_the_session_is_the_environments() -> None:
    assert names.session({}) == {}
    assert names.session({"PLUMBLINE_NAME": "nightly"}) == {}
    assert names.session({"PLUMBLINE_SESSION": "cpu_tp2"}) == {"session": "cpu_tp2"}
    assert names.session({"PLUMBLINE_SESSION": "cpu_tp2", "PLUMBLINE_NAME": "nightly"}) == {"session": "nightly:cpu_tp2"}


@pytest.mark.parametrize("event", EVENTS)
def test_no_two_testsuites_of_an_event_share_a_class_name(event: str) -> None:
    """Sessions that plant the same have a self-test of the same name."""
    found = [(row.session, name) for row in rows() if event in row.when for name in suites_of(row)]
    assert len({names.classname(name, session, "mla") for session, name in found}) == len(found)


def suites_of(row: Row) -> list[str]:
    """The names of the testsuites of a session that tests itself."""
    wanted = parsed([*row.arguments()[1:], "--self-test"])
    return [*(case.name for case in wanted.cases), SelfTest(plan_of(wanted), wanted.cases[0]).name]


def test_files_of_two_sessions_have_no_name_in_common(tmp_path: Path) -> None:
    found = set()
    for session in ("", "cpu_tp2", "cpu_pp2"):
        suite = replace(SUITE, properties={**SUITE.properties, **({"session": session} if session else {})})
        junit.write(tmp_path / FILE, suite)
        assert junit.read(tmp_path / FILE) == suite
        found |= {part for part in (tmp_path / FILE).read_text().split('"') if part.startswith("plumbline.")}
    assert len(found) == 3 * len({check.component for check in SUITE.checks})


def test_a_file_of_before_is_read() -> None:
    found = junit.read(OLD)
    assert [replace(one, message="", properties={}) for one in found.checks] == [
        replace(one, message="", properties={}) for one in SUITE.checks
    ]
    of_both = zip(found.checks, SUITE.checks, strict=True)
    assert all(before.properties.items() <= now.properties.items() for before, now in of_both)
    assert {**found.properties, "run": SUITE.run} == SUITE.properties


def test_drift_compares_with_a_baseline_of_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every check is found again, and one that has grown is red."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / FILE).write_bytes(OLD.read_bytes())
    junit.write(tmp_path / "results" / FILE, SUITE)
    words = ["drift", "--base", str(tmp_path / "base"), "--results", str(tmp_path / "results")]
    assert main(words) == 0
    assert capsys.readouterr().out == "===== Drift: GREEN (2 checks compared, 0 grown, 0 vanished, 0 new) =====\n"
    grown = [replace(one, properties={**one.properties, "rel_error": "9e-11"}) for one in SUITE.checks[1:2]]
    junit.write(tmp_path / "results" / FILE, replace(SUITE, checks=(SUITE.checks[0], *grown, *SUITE.checks[2:])))
    assert main(words) == 1
    assert "Layer 0 Query (mla): 0.9 of its limit" in capsys.readouterr().out
