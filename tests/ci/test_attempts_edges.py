"""Attempts at their edges: how many there are by default, what is told of three, and what the session's folder keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci import attempts, junit, run
from ci.cli import main
from ci.expected import Manifest
from ci.requirements import required
from tests.ci.green import COMMIT, EXPECTED, FILE, SUITE, verdict
from tests.ci.test_attempts import BROKEN, FAILED, runs


def test_two_attempts_are_made_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not more: each costs as much as the first."""
    made: list[Sequence[str]] = []

    def comparison(given: Sequence[str]) -> int:
        made.append(given)
        return 4

    monkeypatch.setattr(attempts, "_run", comparison)
    assert main(["attempts", "--", "run", "--results", str(tmp_path)]) == 4
    assert len(made) == 2
    assert main(["attempts", "--up-to", "1", "--", "run", "--results", str(tmp_path)]) == 4
    assert len(made) == 3


def test_the_command_looks_for_results_where_the_comparison_puts_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict that lies there is not thrown away."""

    def comparison(given: Sequence[str]) -> int:
        junit.write(tmp_path / "elsewhere" / FILE, FAILED)
        return 4

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attempts, "_run", comparison)
    assert main(["attempts", "--", "run", "--results", "elsewhere"]) == 4
    assert "Not tried again" in capsys.readouterr().out


def test_what_the_command_needs_is_said_word_by_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attempts", "--", "doctor"]) == 2
    assert capsys.readouterr().err == (
        "error: give --up-to 1 or more, and after -- the command: python -m ci attempts --up-to 2 -- run --layouts tp2\n"
    )


def test_what_three_attempts_ended_with_is_told_in_order(tmp_path: Path) -> None:
    """The last is the one that counts; the folder of attempts may be there already."""
    (tmp_path / "attempts" / "1").mkdir(parents=True)
    assert attempts.attempt(["run"], tmp_path, 3, runs(tmp_path, (4, BROKEN), (4, None), (0, SUITE))) == 0
    assert junit.read(tmp_path / FILE).properties["attempts"] == "4, 4 without a file, 0"
    assert sorted(path.name for path in (tmp_path / "attempts").iterdir()) == ["1", "2"]


def test_why_an_attempt_is_not_tried_again_is_said_of_a_file_that_is_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def comparison(given: Sequence[str]) -> int:
        (tmp_path / FILE).write_text("")
        return 4

    assert attempts.attempt(["run"], tmp_path, 2, comparison) == 4
    assert capsys.readouterr().out == f"Not tried again: {FILE} {FILE}: is empty (0 bytes): whatever wrote it was cut off\n"


@pytest.mark.parametrize("words", [["run", "--layouts", "a"], ["run", "--help"], ["run", "-h"]])
def test_no_other_option_says_where_results_are(words: list[str]) -> None:
    """The comparison itself answers for its own help."""
    assert attempts._results(words) == Path("results")


@pytest.mark.parametrize("words", [["run", "--res", "a"], ["run", "--result=a"], ["run", "--results", "a"]])
def test_a_part_of_the_name_says_where_results_are(words: list[str]) -> None:
    """As the comparison itself takes it."""
    assert attempts._results(words) == Path("a")


def test_a_session_s_attempts_are_looked_for_in_its_folder(tmp_path: Path) -> None:
    """Not beside it, nor in another session's."""
    manifest = Manifest((replace(EXPECTED, session="a"),), COMMIT, "false")
    told = replace(SUITE, properties={**SUITE.properties, "attempts": "4, 0"})
    junit.write(tmp_path / "results-a" / FILE, told)
    junit.write(tmp_path / "results-a" / "attempts" / "1" / FILE, BROKEN)
    assert verdict(tmp_path, manifest).green
    junit.write(tmp_path / "results-a" / "attempts" / "1" / FILE, FAILED)
    assert [why for _, why in verdict(tmp_path, manifest).reasons] == [
        "attempt 1 holds a verdict, Layer 0 Query fails: only an infrastructure error may be tried again"
    ]


def test_an_attempt_that_is_kept_and_not_told_is_of_the_session_s_folder_and_run(tmp_path: Path) -> None:
    """One of another run is none of its, and one in another session's folder neither."""
    manifest = Manifest((replace(EXPECTED, session="a"),), COMMIT, "false")
    mine, other = (SUITE, replace(SUITE, properties={**SUITE.properties, "run": f"{SUITE.run}b"}))
    junit.write(tmp_path / "results-a" / FILE, mine)
    junit.write(tmp_path / "results-b" / "attempts" / "7" / FILE, mine)
    junit.write(tmp_path / "results-a" / "attempts" / "7" / FILE, other)
    assert verdict(tmp_path, manifest).green
    junit.write(tmp_path / "results-a" / "attempts" / "8" / FILE, mine)
    assert [why for _, why in verdict(tmp_path, manifest).reasons] == [
        "attempt 8 is kept, and the testsuite does not tell of it"
    ]


def test_an_attempt_that_is_told_and_is_of_another_run_was_not_kept(tmp_path: Path) -> None:
    """What lies in its place decides nothing of this run."""
    told = replace(SUITE, properties={**SUITE.properties, "attempts": "4, 0"})
    junit.write(tmp_path / FILE, told)
    junit.write(tmp_path / "attempts" / "1" / FILE, replace(BROKEN, properties={**BROKEN.properties, "run": "1"}))
    assert [why for _, why in verdict(tmp_path).reasons] == ["attempt 1 was not kept: what lies there is of another run"]


@pytest.mark.parametrize(("code", "ended"), [(0, 0), (1, 1), (4, 4), (137, 4), (-9, 4)])
def test_each_attempt_is_told_of_which_run_it_is(monkeypatch: pytest.MonkeyPatch, code: int, ended: int) -> None:
    """Beside all that its environment says."""
    ran: list[tuple[list[str], dict[str, Any]]] = []

    def comparison(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        ran.append((command, how))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", comparison)
    monkeypatch.setenv("PLUMBLINE_RUN", "1 somebody's")
    assert attempts._run(["run", "--layouts", "tp2"]) == ended
    environment = {**os.environ, **run.handed_on()}
    assert environment["PLUMBLINE_RUN"].startswith(f"{os.getpid()} ")
    command = [sys.executable, "-m", "validation", "run", "--layouts", "tp2"]
    assert ran == [(command, {"env": environment, "check": False})]


def test_a_library_without_a_lower_bound_is_not_demanded(tmp_path: Path) -> None:
    """Whatever is installed will do; the largest of several bounds counts."""
    for name, text in {"cpu.txt": "torch<3\n-r base.txt", "base.txt": "transformers>=5.17\nmegatron-core"}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert required("gloo", "local", tmp_path) == ("transformers>=5.17",)
    (tmp_path / "cpu.txt").write_text("torch>=2.9,~=2.10,!=2.12,<3\n  # 前\n-r   base.txt", encoding="utf-8")
    assert required("gloo", "local", tmp_path) == ("torch>=2.10", "transformers>=5.17")
