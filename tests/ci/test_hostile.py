"""Results are written by the code of a pull request: whatever is in them is refused with a sentence, or shown as text.

The first table are files that are refused, the second one names that are shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ci import junit
from ci.cli import main
from ci.gate import Judgement
from ci.structure import MOST_CASES
from tests.ci.green import CHECKS, FILE, SUITE, command_line, verdict, with_check

GOOD = '<testcase name="a" classname="b" />'
Maker = Callable[[Path], object]


def raw(content: str | bytes) -> Maker:
    """A file with this in it."""
    data = content.encode() if isinstance(content, str) else content
    return lambda path: path.write_bytes(data)


def suite(*cases: str, counts: str = "", head: str = "") -> str:
    """A file of one testsuite."""
    counts = counts or f'tests="{len(cases)}" failures="0" errors="0" skipped="0"'
    return f'<testsuites><testsuite name="{SUITE.name}" {counts}>{head}{"".join(cases)}</testsuite></testsuites>'


def genuine(folder: Path) -> bytes:
    """What a run writes."""
    junit.write(folder / "genuine" / FILE, SUITE)
    return (folder / "genuine" / FILE).read_bytes()


def linked(path: Path) -> None:
    """A link to results that are green."""
    genuine(path.parent)
    path.symlink_to(path.parent / "genuine" / FILE)


def sparse(path: Path) -> None:
    """A gibibyte that takes no room on the disk."""
    path.touch()
    os.truncate(path, 1 << 30)


LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
MANY = f"more than {MOST_CASES} testcases"
FILES: dict[str, tuple[Maker, str]] = {
    "nothing": (raw(""), "is empty (0 bytes): whatever wrote it was cut off"),
    "half of a file": (
        lambda path: path.write_bytes(genuine(path.parent).rpartition(b"</testsuite>")[0]),
        r"not JUnit XML \(no element found: line \d+, column \d+; it is cut off\)",
    ),
    "half of a tag": (
        raw(suite(GOOD)[:-10]),
        r"not JUnit XML \(unclosed token: line \d+, column \d+; it is cut off\)",
    ),
    "no XML": (raw("all green, trust me"), r"not JUnit XML \(syntax error: line 1, column 0\)"),
    "another language": (raw("<html><body/></html>"), r"not JUnit XML \(<html>, which no file of ours has\)"),
    "entity bomb": (
        raw(f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]>{suite(GOOD, head="<system-out>&a9;</system-out>")}'),
        "declares entities or is not UTF-8, which no file of ours does",
    ),
    "another machine's file": (
        raw(f'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>{suite(GOOD)}'),
        "declares entities or is not UTF-8, which no file of ours does",
    ),
    "another encoding": (
        raw(suite(GOOD).encode("utf-16")),
        "declares entities or is not UTF-8, which no file of ours does",
    ),
    "another encoding behind a mark": (
        raw(b'\xef\xbb\xbf<?xml version="1.0" encoding="latin-1"?>' + suite(GOOD).encode()),
        "declares entities or is not UTF-8, which no file of ours does",
    ),
    "a style sheet": (
        raw(f'<?xml-stylesheet href="green.xsl"?>{suite(GOOD)}'),
        r"not JUnit XML \(<\?xml-stylesheet\?>, which no file of ours has\)",
    ),
    "a text that says otherwise": (
        raw(suite('<testcase name="a" classname="b"><system-out>FAIL: a - 1 of 2</system-out></testcase>')),
        "a: its text says FAIL, and its verdict is pass",
    ),
    "a text with other numbers": (
        raw(
            suite(
                '<testcase name="a" classname="b"><system-out>PASS: a\n\nrel_error: 1</system-out>'
                '<properties><property name="rel_error" value="0"/></properties></testcase>'
            )
        ),
        "a: its text and its properties have other numbers",
    ),
    "a gibibyte": (sparse, "1073741824 bytes, and no more than 33554432 are read"),
    "a link": (linked, r"no regular file \(a link, a folder or a device\), which no run of ours leaves"),
    "a folder": (Path.mkdir, r"no regular file \(a link, a folder or a device\), which no run of ours leaves"),
    "a pipe": (os.mkfifo, r"no regular file \(a link, a folder or a device\), which no run of ours leaves"),
    "nested without end": (
        raw("<testsuites>" + "<testsuite>" * 200_000),
        r"not JUnit XML \(<testsuite> in <testsuite>, which no file of ours has\)",
    ),
    "a suite in a suite": (
        raw(suite(GOOD, head=f'<testsuite name="b">{GOOD}</testsuite>')),
        r"not JUnit XML \(<testsuite> in <testsuite>, which no file of ours has\)",
    ),
    "an element of its own": (
        raw(suite(GOOD, head="<script>alert(1)</script>")),
        r"not JUnit XML \(<script> in <testsuite>, which no file of ours has\)",
    ),
    "an outcome that viewers differ about": (
        raw(suite('<testcase name="a" classname="b"><flakyFailure/></testcase>')),
        r"not JUnit XML \(<flakyFailure> in <testcase>, which no file of ours has\)",
    ),
    "testcases without end": (raw(suite(*[GOOD] * (MOST_CASES + 1))), rf"not JUnit XML \({MANY}\)"),
    "two suites": (
        raw('<testsuites><testsuite name="a"/><testsuite name="b"/></testsuites>'),
        "2 testsuites; one was expected",
    ),
    "no suite": (raw("<testsuites/>"), "0 testsuites; one was expected"),
    "NaN as time": (raw(suite('<testcase name="a" classname="b" time="nan"/>')), "a time of nan seconds"),
    "infinity as time": (raw(suite('<testcase name="a" classname="b" time="1e999"/>')), "a time of inf seconds"),
    "no name": (raw(suite('<testcase classname="b"/>')), "a testcase without name or classname"),
    "fewer than it says": (
        raw(suite(GOOD, counts='tests="5" failures="0" errors="0" skipped="0"')),
        "wrong counts: tests says 5, and there are 1",
    ),
    "failures that are not there": (
        raw(suite(GOOD, counts='tests="1" failures="1" errors="0" skipped="0"')),
        "wrong counts: failures says 1, and there are 0",
    ),
    "errors that are not counted": (
        raw(
            suite(
                '<testcase name="a" classname="b"><error message="c"/></testcase>',
                counts='tests="1" failures="0" errors="0" skipped="0"',
            )
        ),
        "wrong counts: errors says 0, and there are 1",
    ),
    "skips that are not counted": (
        raw(
            suite(
                '<testcase name="a" classname="b"><skipped type="known"/></testcase>',
                counts='tests="1" failures="0" errors="0" skipped="0"',
            )
        ),
        "wrong counts: skipped says 0, and there are 1",
    ),
    "no counts": (raw(f'<testsuite name="a">{GOOD}</testsuite>'), "wrong counts: tests says nothing, and there are 1"),
    "two outcomes": (
        raw(suite('<testcase name="a" classname="b"><skipped type="known"/><failure/></testcase>')),
        "a: not one verdict of pass, fail, known, error, unevaluated",
    ),
    "a plain skip": (
        raw(suite('<testcase name="a" classname="b"><skipped/></testcase>')),
        "a: not one verdict of pass, fail, known, error, unevaluated",
    ),
    "one property, two values": (
        raw(
            suite(GOOD, head='<properties><property name="commit" value="a"/><property name="commit" value="b"/></properties>')
        ),
        "property commit is there twice",
    ),
    "one number, two values": (
        raw(
            suite(
                '<testcase name="a" classname="b"><properties><property name="rel_error" value="0"/>'
                '<property name="rel_error" value="1"/></properties></testcase>'
            )
        ),
        "property rel_error is there twice",
    ),
}


@pytest.mark.parametrize(("make", "said"), FILES.values(), ids=FILES)
def test_a_hostile_file_is_refused_with_its_own_sentence(tmp_path: Path, make: Maker, said: str) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    make(folder / FILE)
    ((where, why),) = verdict(folder).reasons
    assert where == FILE
    assert re.fullmatch(said, why) or why == said


def test_a_session_s_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    from tests.ci.green import EXPECTED, MANIFEST

    junit.write(tmp_path / "elsewhere" / FILE, SUITE)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results-a").symlink_to(tmp_path / "elsewhere")
    ((_, why),) = verdict(tmp_path / "results", replace(MANIFEST, suites=(replace(EXPECTED, session="a"),))).reasons
    assert why == "its folder results-a is a link, which no run of ours leaves"


NAMES = {
    "workflow command": "::error file=a::owned",
    "workflow command after a line end": "a\n::add-mask::b",
    "workflow command after a carriage return": "a\r::stop-commands::b",
    "workflow command behind a space": "\u2003::set-output name=a::b",
    "the runner's older command": "a ##[error]owned",
    "table": "a | b | c\n|---|",
    "HTML": "<img src=x onerror=alert(1)><details open>",
    "HTML comment": "<!-- a",
    "Markdown link": "[click](https://example.com) ![a](b)",
    "bare link": "see https://example.com or www.example.com",
    "mention": "@everyone #1 GH-1",
    "heading": "# GREEN",
    "code": "`a` ``` b\n```\n## GREEN",
    "end of our code": "</code> **GREEN**",
    "escape": "a\\|b\\",
    "entity": "&lt;b&gt;",
    "colour": "\x1b[32mGREEN\x1b[0m",
    "right to left": "\u202eNEERG\u2066",
    "zero width": "GR\u200bEEN",
    "line separator": "a\u2028::error::b",
    "very long": "a" * 200_000,
    "shell": "$(rm -rf ~) `rm` ; rm",
    "formula": "$$\\frac{a}{b}$$",
}
OURS = re.compile(r"::error title=Plumbline[^:,\n]*::[^\n]+")
MARKUP = re.compile(r"[][`*_|<>#!\\$@~(){}]|https?:|www\.")


def shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says about results that have the text in every place."""
    main([*words[:1], *command_line(tmp_path, anew=False), *words[1:]])
    return capsys.readouterr().out


@pytest.fixture(params=NAMES.values(), ids=list(NAMES))
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A text that stands in every place of results that takes one."""
    text: str = request.param
    command_line(tmp_path)
    bad = {"rel_error": text, "tolerance": text, "ranks": text, "reproduce": text, text: text}
    spoilt = with_check(1, name=text, component=text, status="fail", message=text, properties=bad)(SUITE)
    spoilt = with_check(2, status="error", message=text, properties=bad)(spoilt)
    spoilt = with_check(3, message=f"known upstream bug: {text}")(spoilt)
    properties = dict.fromkeys((*SUITE.properties, "plugin", "attempts", "gpu", text), text)
    junit.write(tmp_path / "results" / FILE, replace(spoilt, name=text, properties=properties))
    (tmp_path / "results" / "attempts" / "1").mkdir(parents=True)
    return text


def test_a_log_shows_it_on_one_line_that_no_runner_obeys(
    hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = shown(tmp_path, capsys, "gate")
    assert "RED" in said
    for line in said.split("\n"):
        assert line.isprintable()
        assert len(line) < 2000
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
    beginnings = ("Diagnosis: ", "To decide, ", "red: ", "tried again: ", "=====")
    assert all(line.startswith(beginnings) for line in said.splitlines())


def test_annotations_are_ours_alone(
    hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    lines = shown(tmp_path, capsys, "summary", "--annotations").splitlines()
    assert 0 < len(lines) <= 10
    assert all(OURS.fullmatch(line) for line in lines)
    assert "##[" not in "".join(lines)


def test_a_summary_shows_it_as_code_and_no_more(
    hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With our own markup taken away no character is left that is any."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    text = shown(tmp_path, capsys, "summary")
    assert text.startswith("## Plumbline: 🔴 RED\n")
    assert len(text.encode()) < 1 << 20
    for line in text.splitlines():
        ours = re.sub(r"^(## |### |- |\| )|</?code>|( \| )| \|$|^\|(---\|)+$|&#\d+;", " ", line)
        assert not MARKUP.search(ours), line
        assert line.isprintable()


def test_hostile_names_reach_the_reader_nevertheless(tmp_path: Path) -> None:
    """They are shown, not hidden: a name that is no markup reads as it is."""
    from tests.ci.green import of_changed

    extra = replace(CHECKS[1], name="前向传播 Layer 9: a < b")
    (said,) = of_changed(tmp_path, lambda suite: replace(suite, checks=(*suite.checks, extra)))
    assert said == "1 check is there that nobody expects: 前向传播 Layer 9: a < b (mla)"


def test_a_name_that_is_there_twenty_thousand_times_is_one_reason(tmp_path: Path) -> None:
    """It is read, and takes no minute."""
    (tmp_path / FILE).write_text(suite(*[GOOD] * 20_000))
    found: Judgement = verdict(tmp_path)
    assert "1 check is there more than once: a (b)" in [why for _, why in found.reasons]
