"""Manifest, results folder and JUnit files at their edges: what is just allowed, what just not, and every refusal's words."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci import folder as folder_
from ci import junit
from ci.expected import Manifest, Tensor, UnreadableManifest, load, save
from ci.folder import Results
from ci.junit import Check, Suite, UnreadableResults
from tests.ci.green import COMMIT, EXPECTED, FILE, MANIFEST, SUITE


def spoilt(path: Path, **changed: Any) -> Path:
    """A manifest with something else in its one testsuite."""
    save(path, MANIFEST)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["suites"][0].update(changed)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"file": "a.json"}, "ValueError '' and 'a.json' are no names of a session and a file"),
        ({"session": "a/b"}, f"ValueError 'a/b' and {FILE!r} are no names of a session and a file"),
        ({"ranks": -1}, "ValueError -1 is no number of ranks"),
        ({"tensors": {"a": {"b": {"elements": 1, "limit": 1.001}}}}, "ValueError 1.001 is no limit of a relative error"),
        ({"tensors": {"a": {"b": {"elements": 1, "limit": float("nan")}}}}, "ValueError nan is no limit of a relative error"),
        ({"tensors": {"a": {"b": {"elements": 1, "limit": -0.1}}}}, "ValueError -0.1 is no limit of a relative error"),
        ({"tensors": {"a": {"b": {"elements": 1, "limit": 0}}}}, "ValueError 0 is no limit of a relative error"),
        ({"name": 3}, "TypeError 3 is no text"),
        ({"excuses": "a"}, "TypeError 'a' is no list"),
        ({"requires": [3]}, "TypeError 3 is no text"),
        ({"properties": {"a": None}}, "TypeError None is no text"),
        ({"checks": {"a": "b"}}, "TypeError 'b' is no list"),
        ({"tensors": {"a": {"b": {"elements": True, "limit": 0.0}}}}, "ValueError True is no number of elements"),
        ({"tensors": {"a": {"b": {"elements": 0, "limit": 0.0}}}}, "ValueError 0 is no number of elements"),
        ({"near_ties": {"a": [None]}}, "TypeError None is no text"),
    ],
)
def test_what_a_testsuite_of_the_manifest_cannot_be_is_said(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    """The whole sentence, with the value."""
    path = spoilt(tmp_path / "m.json", **changed)
    with pytest.raises(UnreadableManifest) as raised:
        load(path)
    assert str(raised.value) == f"{path}: {said}; write it with python -m ci manifest"


@pytest.mark.parametrize(
    "changed",
    [{"ranks": 0}, {"session": "A_b.c+d-1"}, {"file": "a" * 201 + ".xml"}],
    ids=str,
)
def test_what_is_just_allowed_is_read(tmp_path: Path, changed: dict[str, Any]) -> None:
    (suite,) = load(spoilt(tmp_path / "m.json", **changed)).suites
    assert {name: getattr(suite, name) for name in changed} == changed


def test_a_manifest_keeps_all_that_it_is_given(tmp_path: Path) -> None:
    """Several checks of a class in their order, and what no check has."""
    checks = (("b", "2"), ("b", "1"), ("a", "3"))
    suite = replace(
        EXPECTED, checks=checks, tensors={checks[0]: Tensor(1, 0.0), checks[2]: Tensor(2, 1.0)}, session="s", excuses=()
    )
    suite = replace(suite, near_ties=frozenset(checks[1:]))
    manifest = Manifest((suite, EXPECTED), COMMIT, "true", {"s": "self-test.xml", "": FILE})
    save(tmp_path / "m.json", manifest)
    assert load(tmp_path / "m.json") == manifest
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert text.endswith("\n}\n")
    assert text.startswith('{\n "format": ')


def test_a_manifest_of_which_nothing_is_said_is_of_no_commit_and_perhaps_of_changed_files() -> None:
    assert (Manifest(()).commit, Manifest(()).dirty, Manifest(()).self_tests) == ("", "unknown", {})


@pytest.mark.parametrize(("self_tests", "said"), [({"s": 3}, "TypeError 3 is no text"), (["s"], "AttributeError ")])
def test_what_the_self_tests_of_a_manifest_cannot_be_is_said(tmp_path: Path, self_tests: object, said: str) -> None:
    """A file for each session."""
    save(tmp_path / "m.json", MANIFEST)
    content = {**json.loads((tmp_path / "m.json").read_text(encoding="utf-8")), "self_tests": self_tests}
    (tmp_path / "m.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnreadableManifest, match=said):
        load(tmp_path / "m.json")


@pytest.mark.parametrize("content", ["[", '{"format": 99}'])
def test_what_is_no_manifest_says_how_to_write_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableManifest, match=r"; write it with (this tree's )?python -m ci manifest$"):
        load(tmp_path / "m.json")


def results(where: Path, *names: str) -> Results:
    for name in names:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).touch()
    return Results(where)


def test_files_are_found_by_session_where_there_are_folders_of_sessions(tmp_path: Path) -> None:
    """Of those that are asked for; other folders and other files are none."""
    found = results(tmp_path, "results-a/1.xml", "results-b/2.xml", "results-b/3.txt", "other/4.xml", "5.xml")
    assert list(found.files()) == [("a", "1.xml"), ("b", "2.xml")]
    assert list(found.files({"b", "c"})) == [("b", "2.xml")]
    of_b = [replace(EXPECTED, session="b", file="1.xml")]
    assert list(found.strangers(of_b, ())) == ["results-b/2.xml"]
    assert list(found.strangers((), ())) == []
    assert found.path("b", "2.xml") == tmp_path / "results-b" / "2.xml"
    assert found.path("b", "2.xml", 3) == tmp_path / "results-b" / "attempts" / "3" / "2.xml"


def test_files_lie_side_by_side_where_there_are_none(tmp_path: Path) -> None:
    """Whatever session is asked for; what is said beforehand counts."""
    found = results(tmp_path, "1.xml", "2.txt", "other/4.xml")
    assert list(found.files({"a"})) == [("", "1.xml")]
    assert found.path("a", "1.xml") == tmp_path / "1.xml"
    assert Results(tmp_path, by_session=True).path("a", "1.xml") == tmp_path / "results-a" / "1.xml"
    assert Results(tmp_path / "none").by_session is False


@pytest.mark.parametrize(
    ("sessions", "by_session"), [(["a"], True), (["c", "a"], True), (["b", "c"], False), ([""], False), ([], False)], ids=str
)
def test_another_session_s_folder_makes_no_folders_of_what_has_none(
    tmp_path: Path, sessions: list[str], by_session: bool
) -> None:
    """A manifest sees folders if one of its own sessions has one."""
    found = results(tmp_path, "results-a/1.xml", "1.xml")
    assert found.of(sessions).by_session is by_session
    assert found.of(sessions).folder == tmp_path


def test_what_is_expected_is_no_stranger(tmp_path: Path) -> None:
    """In its own session alone; a session that nobody asks for has none."""
    found = results(tmp_path, f"results-a/{FILE}", f"results-b/{FILE}", f"results-c/{FILE}")
    wanted = (replace(EXPECTED, session="a"), replace(EXPECTED, session="b", file="other.xml"))
    assert list(found.strangers(wanted, ())) == [f"results-b/{FILE}"]


def test_in_a_flat_folder_a_stranger_is_one_of_the_same_run(tmp_path: Path) -> None:
    """What another run left, and what is none of ours, is not."""
    for name, run in ((FILE, "1"), ("a.xml", "1"), ("b.xml", "2"), ("c.xml", "3")):
        junit.write(tmp_path / name, replace(SUITE, properties={**SUITE.properties, "run": run}))
    found = results(tmp_path, "empty.xml")
    assert list(found.strangers((EXPECTED,), {"1"})) == ["a.xml"]
    assert list(found.strangers((EXPECTED,), {"1", "2"})) == ["a.xml", "b.xml"]


def test_a_call_with_a_name_has_folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another call are not looked at."""
    monkeypatch.setenv("PLUMBLINE_NAME", "mine")
    found = results(tmp_path, "plumbline-mine.results-a/1.xml", "results-b/2.xml")
    assert list(found.files()) == [("a", "1.xml")]


def test_attempts_are_those_with_a_number_and_this_testsuite(tmp_path: Path) -> None:
    """In order, up to 999."""
    at = [f"attempts/{name}/{FILE}" for name in ("10", "2", "999", "1000", "x", "-1")]
    assert results(tmp_path, *at, "attempts/3/other.xml").kept(EXPECTED) == [2, 10, 999]
    assert Results(tmp_path / "none").kept(EXPECTED) == []
    of_session = results(tmp_path / "sessions", f"results-a/attempts/7/{FILE}", f"results-b/attempts/8/{FILE}")
    assert of_session.kept(replace(EXPECTED, session="a")) == [7]


def test_no_more_names_of_a_folder_are_read_than_a_run_could_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_, "MOST_ENTRIES", 2)
    assert len(list(results(tmp_path, "1.xml", "2.xml", "3.xml").files())) == 2


def test_a_file_in_a_folder_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    """Nor one that is not there; a folder above that is a link is the user's."""
    (tmp_path / "real").mkdir()
    junit.write(tmp_path / "elsewhere" / FILE, SUITE)
    (tmp_path / "real" / "attempts").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert Results(tmp_path / "link").suite("", FILE) == SUITE
    with pytest.raises(UnreadableResults, match=f"^{FILE}: its folder attempts is a link, which no run of ours leaves$"):
        Results(tmp_path / "real").suite("", FILE, 1)
    with pytest.raises(UnreadableResults, match=f"^{FILE}: is missing: no run has left it, or nobody has handed it over$"):
        Results(tmp_path / "real").suite("", FILE)


def test_a_link_to_nowhere_is_there(tmp_path: Path) -> None:
    """It is refused as what it is, and not as missing."""
    (tmp_path / FILE).symlink_to(tmp_path / "nowhere")
    with pytest.raises(UnreadableResults, match="no regular file"):
        Results(tmp_path).suite("", FILE)


def test_reports_are_found_at_any_depth_but_not_in_what_is_out_of_the_way(tmp_path: Path) -> None:
    """By the names of the folders within; where the folder itself lies, and what a file is called, is the user's."""
    place = tmp_path / "attempts"
    found = ("a/before.xml", "a/b/1.xml", "attempts.xml", "0.xml")
    aside = ("attempts/1/2.xml", "before/2.xml", "a/debug/2.xml", "debug/a/2.xml", "a/2.txt", "a/2.XML")
    results(place, *found, *aside)
    assert folder_.reports(place) == [place / name for name in ("0.xml", "a/b/1.xml", "a/before.xml", "attempts.xml")]


def unreadable(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(UnreadableResults) as raised:
        junit.read(path)
    return str(raised.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty (0 bytes): whatever wrote it was cut off"),
        (b'<testsuite name="a">\x00</testsuite>', "declares entities or is not UTF-8, which no file of ours does"),
        (b'<testsuite name="<!ENTITY"/>', "declares entities or is not UTF-8, which no file of ours does"),
        (b"<!DOCTYPE a><a/>", "declares entities or is not UTF-8, which no file of ours does"),
        (b"<?xml encoding = 'latin-1' ?><a/>", "declares entities or is not UTF-8, which no file of ours does"),
        (b"<testsuites/>", "0 testsuites; one was expected"),
        (b'<testsuite name="a" time="inf"/>', "a time of inf seconds"),
        (b'<testsuite name="a"><testcase name="b"/></testsuite>', "a testcase without name or classname"),
        (b'<testsuite name="a"><testcase classname="b"/></testsuite>', "a testcase without name or classname"),
        (
            b'<testsuite name="a"><testcase name="b" classname="c"><skipped type="pytest.skip"/></testcase></testsuite>',
            "b: not one verdict of pass, fail, known, error, unevaluated",
        ),
        (
            b'<testsuite name="a"><testcase name="b" classname="c"><failure/><failure/></testcase></testsuite>',
            "b: not one verdict of pass, fail, known, error, unevaluated",
        ),
        (b'<testsuite name="a"/>', "wrong counts: tests says nothing, and there are 0"),
    ],
)
def test_why_a_file_is_refused_is_one_sentence(tmp_path: Path, data: bytes, said: str) -> None:
    assert unreadable(tmp_path / "suite.xml", data) == f"suite.xml: {said}"


def test_a_long_name_of_a_property_is_cut_in_the_sentence(tmp_path: Path) -> None:
    one = f'<property name="{"n" * 300}" value=""/>'
    data = f'<testsuite name="a"><properties>{one}{one}</properties></testsuite>'
    assert unreadable(tmp_path / "suite.xml", data.encode()) == f"suite.xml: property {'n' * 100} is there twice"


def test_a_file_as_large_as_may_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more is not."""
    path = tmp_path / FILE
    junit.write(path, SUITE)
    size = path.stat().st_size
    monkeypatch.setattr(junit, "LARGEST_FILE", size)
    assert junit.read(path) == SUITE
    monkeypatch.setattr(junit, "LARGEST_FILE", size - 1)
    with pytest.raises(UnreadableResults, match=f"^{FILE}: {size} bytes, and no more than {size - 1} are read$"):
        junit.read(path)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("a")
    (tmp_path / FILE).chmod(0)
    with pytest.raises(UnreadableResults, match="Permission denied"):
        junit.read(tmp_path / FILE)


def test_what_xml_cannot_hold_is_replaced_and_line_ends_are_one(tmp_path: Path) -> None:
    """In every place, each character by itself; colours go."""
    text = "a\r\nb\rc\nd\te\x00f\x1b[1;31mg\ufffeh\U0001f600"
    check = Check("c", text, "fail", message=text, details=text, properties={"n": text})
    junit.write(tmp_path / "suite.xml", Suite(text, (check,), {"n": text}))
    back = junit.read(tmp_path / "suite.xml")
    whole = "a\nb\nc\nd\te\ufffdfg\ufffdh\U0001f600"
    assert (back.name, back.properties["n"]) == (whole, whole)
    (found,) = back.checks
    assert (found.name, found.message, found.details, found.properties["n"]) == (whole, whole, whole, whole)


def test_times_are_kept_to_a_microsecond_and_nothing_said_is_nothing(tmp_path: Path) -> None:
    """A suite without a time or a date of its own took none."""
    checks = (Check("c", "n", "pass", 1.23456789), Check("c", "m", "error"))
    junit.write(tmp_path / "suite.xml", Suite("a", checks, {}))
    text = (tmp_path / "suite.xml").read_text(encoding="utf-8")
    assert text.startswith('<?xml version="1.0" encoding="utf-8"?>\n<testsuites')
    assert 'time="1.234568"' in text
    back = junit.read(tmp_path / "suite.xml")
    assert [check.seconds for check in back.checks] == [1.234568, 0.0]
    assert (back.seconds, back.timestamp, back.properties) == (0.0, "", {})
    assert [(check.message, check.details, dict(check.properties)) for check in back.checks] == [("", "", {})] * 2


def test_details_end_where_the_numbers_begin(tmp_path: Path) -> None:
    """What a check said and what its properties are is told apart again, whatever lines stand in the first."""
    for details in ("", "a: 1", "one\ntwo\n", "n: 2\nn: 2"):
        for properties in ({}, {"n": "2"}, {"n": "2", "m": "3"}):
            suite = Suite("a", (Check("c", "n", "fail", details=details, properties=properties),), {})
            junit.write(tmp_path / "suite.xml", suite)
            (found,) = junit.read(tmp_path / "suite.xml").checks
            assert dict(found.properties) == properties
            assert found.details.rstrip("\n") == details.rstrip("\n")


def test_each_line_of_a_file_is_an_element(tmp_path: Path) -> None:
    """A reader of logs sees what changed."""
    junit.write(tmp_path / "suite.xml", SUITE)
    lines = (tmp_path / "suite.xml").read_text(encoding="utf-8").splitlines()
    assert sum(re.match(r" +<testcase ", line) is not None for line in lines) == len(SUITE.checks)


def test_a_testsuite_alone_is_a_file_too(tmp_path: Path) -> None:
    """Some writers leave out the element around it."""
    counts = 'tests="1" failures="0" errors="0" skipped="0"'
    (tmp_path / "a.xml").write_text(f'<testsuite name="a" {counts}><testcase name="b" classname="c"/></testsuite>')
    assert junit.read(tmp_path / "a.xml").checks == (Check("c", "b", "pass"),)


@pytest.mark.parametrize("details", ["one\ntwo\n", "one XXXX", "one"])
def test_details_without_numbers_are_kept_to_the_letter(tmp_path: Path, details: str) -> None:
    """Also one that ends in the letters that mutation testing puts round a text."""
    suite = Suite("a", (Check("c", "n", "fail", details=details),), {})
    junit.write(tmp_path / "a.xml", suite)
    assert junit.read(tmp_path / "a.xml").checks[0].details == details
