"""An interrupt ends a command wherever it comes: no library keeps it, or makes another error of it."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from validation.case import ending, interrupts

ROOT = Path(__file__).parents[2]
INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(100): pass\n"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


@pytest.fixture(autouse=True)
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As `python -m validation` does; afterwards this process takes signals as before."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(interrupts._Interrupts, "terminated", False)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.listen()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


def importing(name: str) -> None:
    """Import it, and wait for the interrupt."""
    importlib.import_module(name)
    while True:
        signal.pause()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_code_of_ours_is_ended_at_once(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_an_import_is_not_ended_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is half imported cannot be imported again; the interrupt comes when it is done."""
    (tmp_path / "imported_whole.py").write_text(f"try:\n    exec({INTERRUPT!r})\nexcept BaseException:\n    raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        importing("imported_whole")
    assert "imported_whole" in sys.modules


def test_a_second_one_ends_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hang."""
    (tmp_path / "imported_in_part.py").write_text(INTERRUPT * 2)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        importing("imported_in_part")
    assert "imported_in_part" not in sys.modules


def test_one_that_a_finaliser_drops_comes_again(capfd: pytest.CaptureFixture[str]) -> None:
    class Finalised:
        def __del__(self) -> None:
            exec(INTERRUPT)

    def finalise() -> None:
        Finalised()
        importing("sys")

    with pytest.raises(KeyboardInterrupt):
        finalise()
    assert capfd.readouterr().err == ""


def test_another_error_of_a_finaliser_is_told_as_python_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    class Finalised:
        def __del__(self) -> None:
            raise ZeroDivisionError

    Finalised()
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_command_that_has_ended_takes_none() -> None:
    """Its exit code stands."""
    assert ending.code_of(lambda: 7) == 7
    for number in SIGNALS[:2]:
        os.kill(os.getpid(), number)


def test_a_process_that_was_started_to_ignore_them_does() -> None:
    """As by `nohup`, or in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    os.kill(os.getpid(), signal.SIGINT)


def test_one_that_is_held_comes_afterwards() -> None:
    held: list[str] = []

    def hold() -> None:
        with interrupts.held():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # another thread would take it
            held.append("to the end")

    with pytest.raises(KeyboardInterrupt):
        hold()
    assert held == ["to the end"]


TERMINATED = """
import os, signal
from validation.case import ending, interrupts
interrupts.listen()
code = ending.code_of(lambda: os.kill(os.getpid(), signal.SIGTERM))
interrupts.end()
"""


def test_one_that_is_terminated_ends_as_any_other_program() -> None:
    """Having ended what it has started; for the caller it was killed."""
    done = subprocess.run([sys.executable, "-c", TERMINATED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "error: interrupted\n")
