"""Pytest's exit codes are not ours: what it refuses is no infrastructure, and who interrupts it has not used it wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checks.conftest import ROOT, commands_in_turn
from tests.processes import still_there
from validation.case.errors import ExitCode
from validation.checks.ended import Ended

CHECKS = {
    "pass": ("def test(): pass", ExitCode.PASS),
    "fail": ("def test(): assert False", ExitCode.FAIL),
    "cannot be imported": ("import no_such_module", ExitCode.USAGE),
    "none": ("", ExitCode.USAGE),
    "exit with a code of ours": (
        "import pytest\nfrom validation.case.errors import ExitCode\n"
        "def test(): pytest.exit('full', returncode=ExitCode.ENVIRONMENT)",
        ExitCode.ENVIRONMENT,
    ),
    "exit as if all were well": ("import pytest\ndef test(): pytest.exit('enough', returncode=0)", ExitCode.USAGE),
    "exit with none of ours": ("import pytest\ndef test(): pytest.exit('enough', returncode=4)", ExitCode.USAGE),
}


@pytest.fixture(autouse=True)
def _without_plugins_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As commands call pytest; to find and import them takes longer than the rest."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def ended(folder: Path, *words: str, plugin: object | None = None) -> ExitCode:
    """What pytest ends with in this folder."""
    found = Ended()
    given = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(folder), str(folder), *words]
    return found.code(pytest.main(given, plugins=[found, *([plugin] if plugin else [])]))


@pytest.mark.parametrize(("text", "code"), CHECKS.values(), ids=CHECKS)
def test_every_end_has_a_code_of_ours(text: str, code: ExitCode, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / f"test_{request.node.callspec.id.replace(' ', '_').replace('-', '_')}.py").write_text(text, encoding="utf-8")
    assert ended(tmp_path) is code


class _Interrupted:
    """A plugin that is interrupted in one of pytest's phases, and keeps the exit status that the end is told."""

    status: int | None = None

    def __init__(self, phase: str) -> None:
        setattr(self, phase, self._interrupted)

    def _interrupted(self) -> None:
        raise KeyboardInterrupt

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.status = exitstatus


STARTING = ("pytest_configure", "pytest_sessionstart")
RUNNING = ("pytest_collection", "pytest_collection_finish", "pytest_runtestloop", "pytest_runtest_setup")
ENDING = ("pytest_terminal_summary", "pytest_unconfigure")


@pytest.mark.parametrize("phase", ["an import", "a check", *STARTING, *RUNNING, *ENDING])
def test_an_interrupt_goes_on_to_the_command(phase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whenever it comes: pytest tells of none, and no report takes the run for one that has come to its end."""
    text = {"an import": "raise KeyboardInterrupt", "a check": "def test(): raise KeyboardInterrupt"}
    module = tmp_path / f"test_{phase.replace(' ', '_')}_interrupted.py"
    module.write_text(text.get(phase, "def test(): pass"), encoding="utf-8")
    plugin = _Interrupted(phase)
    with pytest.raises(KeyboardInterrupt):
        ended(tmp_path, plugin=plugin)
    assert plugin.status == (None if phase in STARTING else ExitCode.PASS if phase in ENDING else ExitCode.INTERRUPTED)
    said = capsys.readouterr()
    assert "KeyboardInterrupt" not in said.out + said.err


@pytest.mark.parametrize("words", [["--foo"], ["-k", "a and ("], ["nofile.py"]], ids=" ".join)
def test_what_pytest_refuses_is_wrong_usage(words: list[str], tmp_path: Path) -> None:
    assert ended(tmp_path, *words) is ExitCode.USAGE


def test_an_error_inside_of_pytest_is_final(tmp_path: Path) -> None:
    """A hook of ours raised: nothing that another try would mend, and nothing that is missing here."""

    class Broken:
        def pytest_collection_finish(self) -> None:
            raise RuntimeError("a defect")

    assert ended(tmp_path, plugin=Broken()) is ExitCode.FAIL


@pytest.mark.parametrize("code", [ExitCode.FAIL, ExitCode.ENVIRONMENT, ExitCode.INFRASTRUCTURE])
@pytest.mark.parametrize("leaves", [False, True], ids=["set", "exit"])
def test_the_report_s_code_is_taken_as_it_is(code: ExitCode, leaves: bool, tmp_path: Path) -> None:
    class Report:
        def pytest_sessionfinish(self, session: pytest.Session) -> None:
            if leaves:
                pytest.exit("the disk is full", returncode=code)
            session.exitstatus = code

    assert ended(tmp_path, plugin=Report()) is code


def test_the_command_ends_with_these_codes(cache: Path, tmp_path: Path) -> None:
    """What stands behind -- is pytest's."""
    words = [["--foo"], ["-k", "a and ("], ["-k", "no_such_check"], ["--collect-only", "-q"]]
    asked = [["run", "--results", str(tmp_path / "results"), "--", *one] for one in words]
    assert [code for code, _ in commands_in_turn(asked, cache, tmp_path)] == [2, 2, 2, 0]


STANDS_STILL = """
import os, pathlib, signal
def built(case, model):
    rank = pathlib.Path({folder!r}, f"{{os.getpid()}}.rank")
    rank.touch()
    signal.pause()
"""


def test_an_interrupted_command_ends_with_130(cache: Path, tmp_path: Path) -> None:
    """As shells say it; nothing is to be tried again, and nothing was asked for wrongly. No rank is left."""
    (plugin := tmp_path / "stands_still.py").write_text(STANDS_STILL.format(folder=str(tmp_path)))
    words = ("run", "--layouts", "tp2", "--results", str(tmp_path), "--plugin", str(plugin))
    command = [sys.executable, "-m", "validation", *words]
    environment = {**os.environ, "PLUMBLINE_CACHE": str(cache)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while len(ranks := list(tmp_path.glob("*.rank"))) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=1800)[0]
    assert process.returncode == 130, said
    assert said.count("interrupted\n") == 1
    assert said.endswith("error: interrupted\n")
    assert "KeyboardInterrupt" not in said
    assert still_there(*(int(path.stem) for path in ranks)) == []
