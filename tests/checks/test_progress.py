"""Nothing is silent for more than five seconds."""

from __future__ import annotations

import io
import time

import pytest

from validation.checks import progress
from validation.checks.progress import Progress
from validation.run.options import parsed

(CASE,) = parsed(["--layouts", "tp2"]).cases


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are hundredths."""
    monkeypatch.setattr(progress, "SILENCE", 0.04)
    monkeypatch.setattr(progress, "_TICK", 0.01)


def until(said: list[str], count: int) -> None:
    """Wait for so many texts."""
    end = time.monotonic() + 10
    while len(said) < count and time.monotonic() < end:
        time.sleep(0.01)


def test_it_is_soon_enough() -> None:
    """With the time between two looks."""
    assert progress.SILENCE + progress._TICK <= 5


@pytest.mark.usefixtures("_quick")
def test_silence_is_broken_by_what_is_going_on() -> None:
    """Again and again, with the case's step, how many are done and for how long."""
    said: list[str] = []
    telling = Progress(said.append, in_place=False)
    telling.of(3)
    telling.another_done()
    telling.show(CASE, "model")
    with telling.watching(CASE):
        until(said, 1)
        telling.show(CASE, "forward and backward")
        until(said, 3)
    telling.close()
    assert said[0] == "1 of 3 layouts done, 0 s: tiny / tp2: model ...\n"
    assert said[2] == "1 of 3 layouts done, 0 s: tiny / tp2: forward and backward ...\n"


@pytest.mark.usefixtures("_quick")
def test_who_says_something_else_has_broken_it() -> None:
    said: list[str] = []
    telling = Progress(said.append, in_place=False)
    with telling.doing("getting ready"):
        for _ in range(20):
            with telling.away():
                time.sleep(0.005)
        assert said == []
    telling.close()


def test_in_a_terminal_the_line_is_written_over() -> None:
    """And is gone when something else is printed."""
    said: list[str] = []
    telling = Progress(said.append, in_place=True)
    with telling.doing("getting ready"):
        assert said == ["\r\x1b[2K0 s: getting ready ..."]
        with telling.away():
            assert said[1:] == ["\r\x1b[2K"]
    telling.close()


def test_a_line_is_no_longer_than_the_terminal_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a part of it would stay."""
    monkeypatch.setenv("COLUMNS", "20")
    said: list[str] = []
    with Progress(said.append, in_place=True).doing("something that takes many words"):
        assert said == ["\r\x1b[2K0 s: something that"]


@pytest.mark.parametrize(
    ("terminal", "kind", "in_place"), [(True, "xterm", True), (True, "dumb", False), (False, "xterm", False)]
)
def test_only_a_terminal_that_can_is_written_over(
    terminal: bool, kind: str, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", kind)
    telling = Progress.on(stream)
    with telling.doing("getting ready"):
        pass
    telling.close()
    assert ("\r" in stream.getvalue()) is in_place


@pytest.mark.usefixtures("_quick")
def test_a_quiet_one_says_nothing() -> None:
    stream = io.StringIO()
    telling = Progress.on(stream, quiet=True)
    with telling.doing("getting ready"):
        time.sleep(0.1)
    telling.close()
    assert stream.getvalue() == ""
