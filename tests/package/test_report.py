"""A report is made of the documents of `--format json`, and says what they say."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import plumbline
from plumbline import comparison, read
from plumbline.report import Check, Report

ROOT = Path(__file__).parents[2]
NUMBERS = {"max_diff": 0.5, "avg_diff": 0.1, "relative_error": 0.7, "limit": 1e-10}
PLACES = {"worst_index": [2, 0, 22], "worst_rank": 0, "ranks": [0, 1]}
FAILING = {
    "title": "Layer 0 Attention Output",
    "component": "mla",
    "status": "fail",
    "message": "FAIL: Layer 0 Attention Output - relative error 7e-01 > 1e-10",
    "text": "FAIL: Layer 0 Attention Output - Max diff: 0.5\nrank 0 <b>",
    "kind": "sharding",
    "reproduce": "plumbline run --layouts tp2",
    **NUMBERS,
    **PLACES,
}
SINGLE = {
    "name": "tiny-single",
    "layout": "single",
    "self_test": False,
    "verdict": "PASS",
    "seconds": 1.5,
    "counts": {"pass": 1, "known": 1},
    "junit": "results/tiny-single.xml",
    "checks": [
        {"title": "Every rank finishes", "component": "run", "status": "pass"},
        {"title": "Loss", "component": "output", "status": "known", "message": "m", "text": "t", "known": "bug", "floor": 1e-3},
    ],
}
TP2 = {
    **SINGLE,
    "name": "tiny-tp2",
    "layout": "tp2",
    "verdict": "FAIL",
    "counts": {"fail": 2},
    "first": {"line": "FAIL: Layer 0 Attention Output", "reproduce": "plumbline run --layouts tp2 --only 'a <b>'"},
    "checks": [FAILING, {**FAILING, "title": "Layer 0 Residual", "status": "error", "message": "", "relative_error": None}],
}
RUN = {
    "schema": 1,
    "command": "run",
    "verdict": "FAIL",
    "exit_code": 1,
    "seconds": 3.5,
    "checks": 4,
    "counts": {"pass": 1, "known": 1, "fail": 2},
    "left_out": 7,
    "diagnosis": {"sentence": "tp2 fails: a reduction & more.", "deciding": "To decide, run dp2"},
    "suites": [SINGLE, TP2],
}


@pytest.fixture
def report() -> Report:
    return read.report(RUN, keep=True)


def test_the_document_of_these_tests_is_one() -> None:
    Draft202012Validator(json.loads((ROOT / "docs" / "json.schema.json").read_text(encoding="utf-8"))).validate(RUN)


def test_a_check_has_every_number(report: Report) -> None:
    found = report["tp2"]["Layer 0 Attention Output"]
    assert (found.component, found.verdict, found.passed) == ("mla", "fail", False)
    assert (found.max_diff, found.avg_diff, found.rel_error, found.tolerance, found.floor) == (0.5, 0.1, 0.7, 1e-10, None)
    assert (found.worst_index, found.worst_rank, found.ranks) == ((2, 0, 22), 0, (0, 1))
    assert (found.kind, found.reproduce) == ("sharding", "plumbline run --layouts tp2")
    assert found.text.splitlines() == ["FAIL: Layer 0 Attention Output - Max diff: 0.5", "rank 0 <b>"]


def test_what_compares_nothing_has_no_numbers(report: Report) -> None:
    found = report["single"]["Every rank finishes"]
    assert found.passed
    assert (found.max_diff, found.worst_index, found.ranks, found.message, str(found)) == (
        *(None, None, (), "", "PASS: Every rank finishes"),
    )


def test_a_known_bug_is_no_failure(report: Report) -> None:
    found = report["tiny-single"]["Loss"]
    assert (found.verdict, found.known, found.passed, found.floor) == ("known", "bug", True, 1e-3)
    assert report["single"].failed == ()


def test_what_is_undecided_is_a_failure_and_the_first_is_the_first_in_the_file(report: Report) -> None:
    assert [check.name for check in report.failed] == ["Layer 0 Attention Output", "Layer 0 Residual"]
    assert report.first_failure is report.failed[0] is report["tp2"].first_failure
    assert report["single"].first_failure is None


def test_a_report_says_what_the_command_says(report: Report) -> None:
    assert (report.passed, report.verdict, report.exit_code) == (False, "FAIL", 1)
    assert (report.counts, report.left_out, report.seconds) == ({"pass": 1, "known": 1, "fail": 2}, 7, 3.5)
    assert report.diagnosis == "tp2 fails: a reduction & more."
    assert report.deciding == "To decide, run dp2"
    assert len(report.checks) == 4
    assert [case.passed for case in report.cases] == [True, False]


def test_a_junit_file_has_a_path_that_holds_in_every_folder(report: Report) -> None:
    assert report["tp2"].junit == Path.cwd() / "results" / "tiny-single.xml"
    assert read.report(RUN, keep=False)["tp2"].junit is None


def test_it_cannot_be_changed(report: Report) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.verdict = "PASS"  # type: ignore[misc]


def test_what_is_not_there_is_a_key_error(report: Report) -> None:
    with pytest.raises(KeyError, match="pp2"):
        report["pp2"]
    with pytest.raises(KeyError, match="Logits"):
        report["tp2"]["Logits"]


def test_its_text_is_what_a_failing_assertion_needs(report: Report) -> None:
    assert str(report).splitlines() == [
        "FAIL: 1 pass, 1 known, 2 fail, 7 left out",
        "Diagnosis: tp2 fails: a reduction & more.",
        "To decide, run dp2.",
        "single: PASS",
        "tp2: FAIL",
        "  FAIL: Layer 0 Attention Output - relative error 7e-01 > 1e-10",
        "  ERROR: Layer 0 Residual",
        "  Reproduce: plumbline run --layouts tp2 --only 'a <b>'",
    ]


def test_its_short_text_is_one_that_pytest_shows_whole(report: Report) -> None:
    """The diagnosis, or how many checks there were."""
    assert repr(report) == "<FAIL: tp2 fails: a reduction & more.>"
    assert (
        repr(read.report({**RUN, "verdict": "PASS", "diagnosis": {}}, keep=False))
        == "<PASS: 1 pass, 1 known, 2 fail, 7 left out>"
    )
    long = {**RUN, "diagnosis": {"sentence": "word " * 100, "deciding": ""}}
    assert len(repr(read.report(long, keep=False))) < 240
    assert repr(report["tp2"]) == "<tp2: FAIL (2 fail)>"


def test_its_text_lists_the_first_failures_alone() -> None:
    many = {**TP2, "checks": [FAILING] * 7}
    lines = str(read.report({**RUN, "suites": [many]}, keep=False)).splitlines()
    assert sum(line.startswith("  FAIL") for line in lines) == 5
    assert "  ... and 2 more" in lines


class Cells(HTMLParser):
    """The texts of table cells, and the tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Keep its name."""
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        """Keep it, a line each."""
        self.text += f"{data}\n"


def test_a_notebook_shows_layouts_and_failures_and_no_markup_of_theirs(report: Report) -> None:
    parser = Cells()
    parser.feed(report._repr_html_())
    assert "b" not in parser.tags
    assert "script" not in parser.tags
    assert "plumbline run --layouts tp2 --only 'a <b>'" in parser.text
    assert "tp2: 2 failures" in parser.text
    assert "tp2 fails: a reduction & more." in parser.text
    assert "7.00e-01" in parser.text
    assert parser.tags.count("table") == 2


def test_a_data_frame_has_a_row_for_each_check(report: Report) -> None:
    frame = report.dataframe()
    assert list(frame.columns) == ["layout", *(field.name for field in dataclasses.fields(Check))]
    assert list(frame.layout) == ["single", "single", "tp2", "tp2"]
    assert frame[frame.verdict == "fail"].rel_error.tolist() == [0.7]
    assert frame.worst_index[2] == (2, 0, 22)


def test_without_pandas_a_sentence_says_what_to_do(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pandas is not installed .*; `pip install pandas`, or use report\.checks"):
        report.dataframe()


def test_keys_that_come_later_are_left_out() -> None:
    newer = {**SINGLE, "checks": [{"title": "Loss", "status": "pass", "invented": 1}]}
    assert read.report({**RUN, "suites": [newer]}, keep=False).checks == (Check(name="Loss", verdict="pass"),)


@pytest.mark.parametrize(
    ("code", "raised"),
    [(2, plumbline.UsageError), (3, plumbline.EnvironmentMissing), (4, plumbline.RunBroke), (1, plumbline.PlumblineError)],
)
def test_what_ends_before_it_compares_is_an_exception(code: int, raised: type[plumbline.PlumblineError]) -> None:
    with pytest.raises(raised, match=r"^what is wrong; what works$") as caught:
        comparison._report({"verdict": "ERROR", "exit_code": code, "error": "what is wrong; what works"}, keep=False)
    assert type(caught.value) is raised
    assert caught.value.exit_code == code
    assert caught.value.report is None


@pytest.mark.parametrize(("code", "raised"), [(3, plumbline.EnvironmentMissing), (4, plumbline.RunBroke)])
def test_a_run_that_broke_says_how_and_has_what_is_known(code: int, raised: type[plumbline.PlumblineError]) -> None:
    with pytest.raises(raised, match=r"^FAIL: Layer 0 Attention Output - relative") as caught:
        comparison._report({**RUN, "verdict": "ERROR", "exit_code": code}, keep=False)
    assert caught.value.report is not None
    assert caught.value.report["tp2"].verdict == "FAIL"


def test_a_run_that_was_interrupted_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt):
        comparison._report({"exit_code": 130, "error": "interrupted"}, keep=False)


def test_a_process_that_ends_without_results_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_START", "import sys; sys.stderr.write('gone\\n\\n'); sys.exit(7)")
    with pytest.raises(plumbline.RunBroke, match=r"^the comparison ended with exit status 7 and without results \(gone\)$"):
        plumbline.check()


def test_what_surrounds_the_process_is_refused_in_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a file would run before Plumbline; the process ends before it knows that JSON is wanted."""
    (tmp_path / "sitecustomize.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(plumbline.UsageError, match=r"^\S*sitecustomize\.py is run by Python before Plumbline"):
        plumbline.check()


def test_a_working_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(plumbline.UsageError, match=r"^the working folder is not there"):
        plumbline.check()


def test_an_interrupt_ends_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A notebook's Stop reaches the kernel alone."""
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(comparison, "_START", code)

    def interrupt(*given: object) -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(comparison, "_listen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plumbline.check()
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_last_failed_needs_a_folder() -> None:
    with pytest.raises(plumbline.UsageError, match="give its folder as results"):
        plumbline.check(last_failed=True)


def test_progress_is_told_but_not_files_that_are_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = json.dumps({"exit_code": 2, "error": "e", "verdict": "ERROR"})
    start = f"import sys; sys.stderr.write('4 s: getting ready\\nJUnit: a.xml\\n'); print({said!r})"
    monkeypatch.setattr(comparison, "_START", start)
    for words, told in (({}, ""), ({"progress": True}, "4 s: getting ready\n")):
        with pytest.raises(plumbline.UsageError):
            plumbline.check(**words)  # type: ignore[arg-type]
        assert capsys.readouterr().err == told
    with pytest.raises(plumbline.UsageError):
        plumbline.check(progress=True, results=tmp_path)
    assert capsys.readouterr().err == "4 s: getting ready\nJUnit: a.xml\n"
