"""The manifest's command, on checks that no session has to list: what is asked of whom, and every word of a refusal."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci import manifest
from ci.cli import main
from ci.expected import Expected, Manifest, load, save
from ci.table import rows
from tests.ci.green import COMMIT, EXPECTED, FILE

SELF_TEST = replace(EXPECTED, file="self-test.xml", name="self-test", ranks=0, requires=("torch>=2",))
WITH_SELF_TEST = Manifest((EXPECTED, SELF_TEST), self_tests={"": SELF_TEST.file})
Ran = list[tuple[list[str], dict[str, Any]]]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Every session lists these checks; what was run, and how."""
    ran: Ran = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        ran.append((command, how))
        self_test = "--self-test" in command
        save(Path(command[-1]), WITH_SELF_TEST if self_test else Manifest((EXPECTED,)))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("ci.commit.facts", lambda: {"commit": COMMIT, "dirty": "false"})
    return ran


def made(folder: Path, *words: str) -> Manifest:
    """What the command writes."""
    assert main(["manifest", *words, "--output", str(folder / "m.json")]) == 0
    return load(folder / "m.json")


def test_a_manifest_is_of_every_session_in_order_with_its_self_test(
    listed: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of this tree's commit; the line counts what is in it."""
    found = made(tmp_path, "--session", "cpu_tp2", "--session", "cpu_single")
    suites = [replace(suite, session=name) for name in ("cpu_tp2", "cpu_single") for suite in (EXPECTED, SELF_TEST)]
    tests = {"cpu_tp2": SELF_TEST.file, "cpu_single": SELF_TEST.file}
    assert found == Manifest(tuple(suites), COMMIT, "false", tests)
    checks = 4 * len(EXPECTED.checks)
    assert capsys.readouterr().out == f"{tmp_path / 'm.json'}: 2 sessions, 4 testsuites, {checks} checks\n"


def test_checks_are_listed_by_the_command_of_the_row(listed: Ran, tmp_path: Path) -> None:
    """In this tree, with this Python; what it says is kept for the sentence, and it does not take for ever."""
    made(tmp_path, "--session", "cpu_tp2")
    ((command, how),) = listed
    row = next(row for row in rows() if row.session == "cpu_tp2")
    assert command[:-1] == [sys.executable, "-m", "validation", *row.arguments(), "--self-test", "--manifest"]
    path = Path(command[-1])
    assert path.name == "manifest.json"
    assert path.parent.name.startswith("plumbline-manifest-")
    assert not path.parent.exists()
    assert how == {"cwd": manifest.ROOT, "capture_output": True, "text": True, "timeout": 300, "check": False}


def test_without_the_self_test_none_is_asked_for(listed: Ran, tmp_path: Path) -> None:
    found = made(tmp_path, "--session", "cpu_tp2", "--no-self-test")
    assert "--no-self-test" in listed[0][0]
    assert (len(found.suites), found.self_tests) == (1, {})


def test_where_no_commit_is_known_the_manifest_is_of_none(listed: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate refuses it unless it is told which."""
    monkeypatch.setattr("ci.commit.facts", lambda: {"dirty": "unknown"})
    found = made(tmp_path, "--session", "cpu_tp2")
    assert (found.commit, found.dirty) == ("", "unknown")


def test_libraries_are_demanded_of_every_testsuite(listed: Ran, tmp_path: Path) -> None:
    """In the place of what requirements/ says, and beside the others."""
    found = made(tmp_path, "--session", "cpu_tp2", "--minimum", "torch=2.1", "--minimum", "My_Library=3")
    assert [suite.requires for suite in found.suites] == [
        ("megatron-core==0.16.1", "torch>=2.1", "my-library>=3"),
        ("torch>=2.1", "my-library>=3"),
    ]


@pytest.mark.parametrize(("given", "said"), [("a=b=c", "a: b=c"), ("torch=soon", "torch: soon"), ("a b=1", "a b: 1")])
def test_a_minimum_that_names_no_version_is_refused(
    listed: Ran, given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["manifest", "--session", "cpu_tp2", "--minimum", given]) == 2
    error = f"error: --minimum {said} is no version of a library; give NAME=VERSION, such as megatron-core=0.15.3\n"
    assert capsys.readouterr().err == error
    assert listed == []


@pytest.mark.parametrize("given", ["torch", "torch=", "=2.1", "=", ""])
def test_half_of_a_minimum_is_refused_and_named(listed: Ran, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", "--session", "cpu_tp2", "--minimum", "a=1", "--minimum", given]) == 2
    name = given.partition("=")[0]
    assert capsys.readouterr().err == f"error: --minimum {name}: give NAME=VERSION, such as megatron-core=0.15.3\n"
    assert listed == []


def test_every_refusal_of_a_choice_is_one_sentence(
    listed: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = [row for row in rows() if row.session in ("cpu_tp2", "parity")]
    monkeypatch.setattr(manifest, "rows", lambda: [replace(row, when=()) for row in table])
    for words, said in (
        (
            ["--session", "a", "--session", "b"],
            f"--session a: unknown; ci/matrix.yaml has {', '.join(r.session for r in table)}",
        ),
        (
            ["--session", "parity", "--session", "cpu_tp2", "--session", "cpu_tp2", "--session", "parity"],
            "--session parity: given twice; a session is run once",
        ),
        (
            ["--event", "nightly"],
            "--event nightly: no session of ci/matrix.yaml runs then, and a gate with nothing to ask for is none",
        ),
    ):
        assert main(["manifest", *words]) == 2
        assert capsys.readouterr().err == f"error: {said}\n"
    assert listed == []


def test_an_event_is_of_the_sessions_that_it_runs(listed: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no other, in the table's order."""
    one, two, three = rows()[:3]
    table = [
        replace(one, when=("nightly",)),
        replace(two, when=("pull_request",)),
        replace(three, when=("pull_request", "nightly")),
    ]
    monkeypatch.setattr(manifest, "rows", lambda: table)
    found = made(tmp_path, "--event", "nightly", "--no-self-test")
    assert [suite.session for suite in found.suites] == [one.session, three.session]


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(Manifest((EXPECTED, SELF_TEST)), id="it says of none that it is the self-test"),
        pytest.param(replace(WITH_SELF_TEST, suites=(EXPECTED,)), id="the file is not there"),
        pytest.param(replace(WITH_SELF_TEST, suites=(EXPECTED, replace(SELF_TEST, checks=()))), id="it has no check"),
        pytest.param(replace(WITH_SELF_TEST, self_tests={"cpu_tp2": SELF_TEST.file}), id="it is another session's"),
    ],
)
def test_a_self_test_that_is_on_must_be_among_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Manifest
) -> None:
    """With checks in it."""
    monkeypatch.setattr(manifest, "_collected", lambda row, self_test: found)
    assert main(["manifest", "--session", "cpu_tp2", "--output", str(tmp_path / "m.json")]) == 3
    said = "the checks of cpu_tp2 lack its self-test, and it is on; --no-self-test asks for none"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("out", "err", "said"),
    [
        ("out", "first\nsecond\nlast\n", "last"),
        ("first\nlast", "", "last"),
        ("", "", "nothing said"),
    ],
)
def test_why_checks_cannot_be_listed_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str, err: str, said: str
) -> None:
    """Of the errors, else of what was printed."""
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, out, err))
    assert main(["manifest", "--session", "cpu_tp2", "--output", str(tmp_path / "m.json")]) == 3
    assert capsys.readouterr().err == f"error: the checks of cpu_tp2 cannot be listed: {said}\n"


def test_the_options_have_their_defaults() -> None:
    parser = ArgumentParser()
    manifest.add_options(parser)
    assert vars(parser.parse_args(["--event", "nightly"])) == {
        "sessions": None,
        "event": "nightly",
        "output": "manifest.json",
        "no_self_test": False,
        "minimum": [],
    }
    for words in ([], ["--event", "nightly", "--session", "a"], ["--event", "never"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)


def test_what_is_listed_is_of_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the checks themselves say."""
    of_another: Expected = replace(EXPECTED, session="another")
    monkeypatch.setattr(manifest, "_collected", lambda row, self_test: Manifest((of_another,)))
    row = rows()[0]
    assert [suite.session for suite in manifest._listed(row, False).suites] == [row.session]
    assert [suite.file for suite in manifest._listed(row, False).suites] == [FILE]
