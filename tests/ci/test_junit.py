"""JUnit files: what is written can be read, by us and by any XML reader, whatever stands in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from junitparser import xunit2

from ci import junit
from ci.junit import Check, Suite, UnreadableResults
from validation.case.failures import KINDS

NUMBERS = {"max_diff": "0.003906", "ranks": "0-1"}
SUITE = Suite(
    name="tiny-tp2-fp64-local-gloo",
    checks=(
        Check("mla", "Layer 0 Query", "pass", 0.25, properties=NUMBERS),
        Check("mla", "Layer 0 Key", "fail", 0.5, "Max diff: 0.1 > 0.01", "worst at\n[0, 1]", NUMBERS),
        Check("moe", "Layer 1 Router", "known", message="known upstream bug: #1699", properties=NUMBERS),
        Check("moe", "Layer 1 Experts", "error", message="rank 1 was lost", details="a stack", failure="crash"),
        Check("moe", "Layer 1 MoE Output", "unevaluated", message="not evaluated: the run did not finish"),
    ),
    properties={"layout": "tp2", "seed": "1234"},
    seconds=6.5,
    timestamp="2026-01-31T12:00:00",
)
HOSTILE = {
    "end of CDATA": "a ]]> b",
    "markup": "<b>&amp; \"quoted\" 'too'</b>",
    "doctype": "<!DOCTYPE a [<!ENTITY b 'c'>]> &b;",
    "Chinese": "前向传播 通过",
    "beyond 16 bits": "𝛼",
    "lines": "first\nsecond\n\n  third",
}
UNWRITABLE = {
    "NUL": "a\x00b",
    "ANSI colour": "\x1b[31ma\x1b[0mb",
    "ANSI title": "\x1b]0;a\x07b",
    "bell": "a\x07b",
    "lone surrogate": "a\ud800b",
    "non-character": "a\uffffb",
    "carriage return": "a\rb\r\n",
}


def written(folder: Path, suite: Suite) -> ElementTree.Element:
    """The testsuite element of the file, through a parser that is not ours."""
    junit.write(folder / "suite.xml", suite)
    (found,) = ElementTree.parse(folder / "suite.xml").getroot().iter("testsuite")
    return found


def everywhere(text: str) -> Suite:
    """A suite that has the text in every place that takes one."""
    check = Check(text, text, "fail", message=text, details=text, properties={"note": text})
    return Suite(text, (check,), {"note": text})


def test_a_suite_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "suite.xml"
    junit.write(path, SUITE)
    assert junit.read(path) == SUITE


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_any_text_that_xml_can_hold_reads_back_as_it_was_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "suite.xml"
    junit.write(path, everywhere(text))
    assert junit.read(path) == everywhere(text)


@pytest.mark.parametrize("text", UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_what_xml_cannot_hold_leaves_the_file_readable_and_the_rest_in_it(tmp_path: Path, text: str) -> None:
    found = written(tmp_path, everywhere(text))
    assert re.fullmatch("[^\x00-\x09\x0b-\x1f\ud800-\udfff\uffff]+", found.get("name", ""))
    assert "a" in found.get("name", "")
    assert "b" in found.get("name", "")
    once = junit.read(tmp_path / "suite.xml")
    junit.write(tmp_path / "suite.xml", once)
    assert junit.read(tmp_path / "suite.xml") == once


def test_the_counts_of_a_suite_are_those_of_its_checks(tmp_path: Path) -> None:
    found = written(tmp_path, SUITE)
    assert {word: found.get(word) for word in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "2",
    }


@pytest.mark.parametrize(("status", "element"), [("fail", "failure"), ("error", "error"), ("known", "skipped")])
def test_a_check_that_did_not_pass_says_so_in_the_element_that_viewers_read(tmp_path: Path, status: str, element: str) -> None:
    check = Check("checks", "Loss", status, message="what went wrong")
    (case,) = written(tmp_path, replace(SUITE, checks=(check,))).iter("testcase")
    assert [(child.tag, child.get("message")) for child in case if child.tag != "system-out"] == [(element, "what went wrong")]


def test_a_check_that_passed_carries_no_outcome(tmp_path: Path) -> None:
    (case,) = written(tmp_path, replace(SUITE, checks=SUITE.checks[:1])).iter("testcase")
    assert {child.tag for child in case} == {"system-out", "properties"}


def test_every_number_stands_in_system_out_as_well_as_in_the_properties(tmp_path: Path) -> None:
    for case in list(written(tmp_path, SUITE).iter("testcase"))[:3]:
        numbers = {item.get("name"): item.get("value") for item in case.iter("property")}
        assert numbers == NUMBERS
        assert (case.findtext("system-out") or "").splitlines()[-2:] == ["max_diff: 0.003906", "ranks: 0-1"]


def test_a_status_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="status 'skip' is none of pass, fail, known, error, unevaluated"):
        junit.write(tmp_path / "suite.xml", replace(SUITE, checks=(Check("checks", "Loss", "skip"),)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "failure"),
    [("fail", "wrong"), ("error", "fail"), ("pass", "limit"), ("known", "limit"), ("unevaluated", "crash")],
)
def test_a_kind_of_failure_that_is_in_no_list_or_of_no_failure_is_refused(tmp_path: Path, status: str, failure: str) -> None:
    check = Check("mla", "Loss", status, failure=failure)
    with pytest.raises(ValueError, match=f"Loss: failure '{failure}' with status '{status}' is none of"):
        junit.write(tmp_path / "suite.xml", replace(SUITE, checks=(check,)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", ["fail", "error"])
@pytest.mark.parametrize("failure", ["", *KINDS])
def test_every_kind_of_failure_reads_back(tmp_path: Path, status: str, failure: str) -> None:
    suite = replace(SUITE, checks=(Check("mla", "Loss", status, message="off", failure=failure),))
    (case,) = written(tmp_path, suite).iter("testcase")
    assert [child.get("type") for child in case if child.tag in ("failure", "error")] == [failure or "other"]
    assert junit.read(tmp_path / "suite.xml") == suite


@pytest.mark.parametrize("status", ["fail", "error", "known", "unevaluated"])
def test_the_body_of_what_did_not_pass_has_the_whole_text(tmp_path: Path, status: str) -> None:
    """Details and every number; the message where there is no more than that."""
    whole = Check("mla", "Loss", status, message="off", details="the line\na stack", properties={"reproduce": "python"})
    for check, text in ((whole, "the line\na stack\nreproduce: python"), (Check("mla", "Loss", status, message="off"), "off")):
        (case,) = written(tmp_path, replace(SUITE, checks=(check,))).iter("testcase")
        assert [child.text for child in case if child.tag in ("failure", "error", "skipped")] == [text]


def test_a_suite_that_does_not_say_its_run_is_of_none() -> None:
    assert (SUITE.run, replace(SUITE, properties={"run": "now"}).run) == ("", "now")


def test_a_run_that_never_ends_leaves_a_file_that_is_red(tmp_path: Path) -> None:
    path = tmp_path / "suite.xml"
    junit.write_unfinished(path, "tiny-tp2", {"layout": "tp2"})
    left = junit.read(path)
    assert (left.name, left.properties) == ("tiny-tp2", {"layout": "tp2"})
    assert [(check.name, check.status, check.message) for check in left.checks] == [("run", "error", "did not finish")]


def test_writing_makes_its_folders_and_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "nightly" / "suite.xml"
    junit.write_unfinished(path, SUITE.name, {})
    junit.write(path, SUITE)
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_is_cut_off_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "suite.xml"
    junit.write_unfinished(path, SUITE.name, {})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        junit.write(path, SUITE)
    assert junit.read(path).checks[0].message == "did not finish"


CASE = '<testsuite name="a"><testcase name="b" classname="c">{}</testcase></testsuite>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "0 bytes", id="empty"),
        pytest.param(b"<testsuite", "not JUnit XML", id="cut off"),
        pytest.param(b"<html/>", "not JUnit XML", id="another language"),
        pytest.param(b"<testsuites/>", "0 testsuites", id="no suite"),
        pytest.param(b'<testsuites><testsuite name="a"/><testsuite name="b"/></testsuites>', "2 testsuites", id="two suites"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY b "c">]><testsuite name="&b;"/>', "declares entities", id="entity"),
        pytest.param('<testsuite name="a"/>'.encode("utf-16"), "not UTF-8", id="16-bit characters"),
        pytest.param(b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a>', "not UTF-8", id="hidden in another encoding"),
        pytest.param(b'<testsuite name="a" time="soon"/>', "soon", id="time in words"),
        pytest.param(b'<testsuite name="a" time="nan"/>', "a time of nan", id="time that is no number"),
        pytest.param(b'<testsuite name="a" time="-1"/>', "a time of -1.0", id="time before the start"),
        pytest.param(b'<testsuite name="a"><testcase/></testsuite>', "without name", id="testcase without a name"),
        pytest.param(CASE.format("<skipped/>").encode(), "b: not one verdict", id="skip that is no known bug"),
        pytest.param(CASE.format('<skipped type="known"/><failure/>').encode(), "b: not one verdict", id="two outcomes"),
    ],
)
def test_a_file_that_is_not_ours_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "suite.xml"
    path.write_bytes(content)
    with pytest.raises(UnreadableResults, match=f"^suite.xml: .*{reason}"):
        junit.read(path)


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "suite.xml"
    path.touch()
    os.truncate(path, junit.LARGEST_FILE + 1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(UnreadableResults, match=f"{junit.LARGEST_FILE + 1} bytes"):
        junit.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableResults, match=r"missing\.xml: No such file"):
        junit.read(tmp_path / "missing.xml")


def attributes(path: Path) -> dict[str, set[str]]:
    """Element -> the attributes that any of its kind has."""
    found: dict[str, set[str]] = {}
    for element in ElementTree.parse(path).iter():
        found.setdefault(element.tag, set()).update(element.keys())
    return found


PYTEST = """
import pytest

def test_pass(record_property):
    record_property("max_diff", 0.1)
    print("output")

def test_fail():
    assert False

@pytest.mark.skip
def test_skip():
    pass

@pytest.fixture
def broken():
    raise ValueError

def test_error(broken):
    pass
"""


def test_a_file_has_what_pytest_s_own_has_where_readers_look_for_it(tmp_path: Path) -> None:
    """Readers of xunit2 are written against pytest's files."""
    (tmp_path / "test_it.py").write_text(PYTEST)
    words = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit2", "-o", "junit_logging=system-out"]
    words += ["--junitxml", "theirs.xml", "test_it.py"]
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=tmp_path, capture_output=True, timeout=1800, check=False)
    junit.write(tmp_path / "ours.xml", SUITE)
    theirs, ours = attributes(tmp_path / "theirs.xml"), attributes(tmp_path / "ours.xml")
    assert set(ours) == set(theirs)
    # What their root and host are called, nobody needs; what kind of failure it is, they put into its text.
    theirs["testsuites"].clear()
    theirs["testsuite"].discard("hostname")
    for outcome in ("failure", "error", "skipped"):
        theirs[outcome].add("type")
    assert ours == theirs


def test_junitparser_s_reader_of_xunit2_reads_everything(tmp_path: Path) -> None:
    junit.write(tmp_path / "suite.xml", SUITE)
    (suite,) = xunit2.JUnitXml.fromfile(str(tmp_path / "suite.xml"))
    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == (SUITE.name, 5, 1, 1, 2)
    assert {item.name: item.value for item in suite.properties()} == SUITE.properties
    cases = list(suite)
    assert [(case.classname, case.name) for case in cases] == [
        (f"plumbline.{SUITE.name}.{check.component}", check.name) for check in SUITE.checks
    ]
    assert {item.name: item.value for item in cases[0].properties()} == NUMBERS
    assert [type(case.result[0]).__name__ if case.result else "" for case in cases] == [
        "",
        "Failure",
        "Skipped",
        "Error",
        "Skipped",
    ]
