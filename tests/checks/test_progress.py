"""Nothing is silent for more than five seconds."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable

import pytest

from validation.checks import progress
from validation.checks.progress import Progress
from validation.run.options import parsed

(CASE,) = parsed(["--layouts", "tp2"]).cases


class Clock:
    """A clock that no machine is too slow for: it goes on by `step` whenever the thread that tells looks at it."""

    def __init__(self) -> None:
        self.now, self.step, self.looks = 0.0, 0.0, 0

    def monotonic(self) -> float:
        """Its seconds."""
        if threading.current_thread().name == "progress":
            self.looks += 1
            self.now += self.step
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What `Progress` asks for the time, again and again without a pause to speak of."""
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    monkeypatch.setattr(progress, "SILENCE", 0.04)
    monkeypatch.setattr(progress, "_TICK", 0.001)
    return found


@pytest.fixture
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that tells does not come to it."""
    monkeypatch.setattr(progress, "_TICK", 3600.0)


def until(reached: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_is_soon_enough() -> None:
    """With the time between two looks."""
    assert progress.SILENCE + progress._TICK <= 5


def test_silence_is_broken_by_what_is_going_on(clock: Clock) -> None:
    """Again and again, with the case's step, how many are done and for how long."""
    said: list[str] = []
    clock.step = 0.01
    telling = Progress(said.append, in_place=False)
    telling.of(3)
    telling.another_done()
    telling.show(CASE, "model")
    with telling.watching(CASE):
        until(lambda: len(said) > 0)
        telling.show(CASE, "forward and backward")
        with telling.away():  # the clock is its thread's but for now
            clock.now, told = 60.0, len(said)
        until(lambda: len(said) > told + 1)
    telling.close()
    assert said[0] == "1 of 3 layouts done, 0 s: tiny / tp2: model ...\n"
    assert said[told + 1] == "1 of 3 layouts done, 60 s: tiny / tp2: forward and backward ...\n"


def test_who_says_something_else_has_broken_it(clock: Clock) -> None:
    said: list[str] = []
    telling = Progress(said.append, in_place=False)
    with telling.doing("getting ready"):
        for _ in range(3):
            with telling.away():
                clock.now += 0.03
            seen = clock.looks
            until(lambda seen=seen: clock.looks > seen + 1)  # type: ignore[misc]
        assert said == []
    telling.close()


@pytest.mark.usefixtures("_untold")
def test_in_a_terminal_the_line_is_written_over() -> None:
    """And is gone when something else is printed."""
    said: list[str] = []
    telling = Progress(said.append, in_place=True)
    with telling.doing("getting ready"):
        assert said == ["\r\x1b[2K0 s: getting ready ..."]
        with telling.away():
            assert said[1:] == ["\r\x1b[2K"]
    telling.close()


@pytest.mark.usefixtures("_untold")
def test_a_line_is_no_longer_than_the_terminal_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a part of it would stay."""
    monkeypatch.setenv("COLUMNS", "20")
    said: list[str] = []
    telling = Progress(said.append, in_place=True)
    with telling.doing("something that takes many words"):
        assert said == ["\r\x1b[2K0 s: something that"]
    telling.close()


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


def test_a_quiet_one_says_nothing() -> None:
    """And has no thread that could."""
    stream = io.StringIO()
    telling = Progress.on(stream, quiet=True)
    with telling.doing("getting ready"):
        assert telling._thread.ident is None
    telling.close()
    assert stream.getvalue() == ""
