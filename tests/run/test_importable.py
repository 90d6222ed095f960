"""What a rank could not import is known before there is one."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import validation.run
from validation.run import importable


def ended(monkeypatch: pytest.MonkeyPatch, code: int, stdout: str = "", stderr: str = "") -> dict[str, str]:
    """The process that tries it has ended so; what it was given in its environment."""
    given: dict[str, str] = {}

    def run(command: list[str], *, env: dict[str, str], **how: Any) -> subprocess.CompletedProcess[str]:
        given.update(env)
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return given


def test_it_is_tried_as_a_rank_of_a_cpu_case_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ended(monkeypatch, 0, "a warning\n")
    assert importable.problem() is None
    assert (given["PLUMBLINE_TRANSPORT"], given["CUDA_VISIBLE_DEVICES"]) == ("gloo", "")


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "said"),
    [
        (1, "chatter\n\nwhat is wrong\n", "Traceback\n", "what is wrong"),
        (1, "", "Traceback\n\nImportError: broken\n", "ImportError: broken"),
        (-11, "", "", "importing it ended with exit status -11"),
    ],
)
def test_the_last_line_says_it(monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str, said: str) -> None:
    ended(monkeypatch, code, stdout, stderr)
    assert importable.problem() == said


def test_one_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **how: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert importable.problem() == "importing it took longer than 300 s"


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for what ranks import, which would change this process."""
    stand_in = SimpleNamespace(check=lambda: None)
    monkeypatch.setattr(validation.run, "preload", stand_in, raising=False)
    return stand_in


def test_what_cannot_be_imported_is_told_in_one_line(imported: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("half\na merge")

    imported.check = fail
    with pytest.raises(SystemExit) as left:
        importable.tell()
    assert left.value.code == 1
    assert capsys.readouterr().out == "\nit cannot be imported: RuntimeError('half\\na merge')\n"


def test_where_all_can_be_imported_it_says_nothing(imported: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    importable.tell()
    assert capsys.readouterr().out == ""


def test_python_itself_is_the_one_that_ranks_have(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    importable.problem()
    assert ran[0][0] == sys.executable
