"""What is going on: one line that is written over in a terminal; elsewhere a line whenever nothing was said for a while."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from validation.case.case import Case
from validation.case.plural import many

SILENCE = 4.0
"""Seconds after which a line says what is going on, where it cannot be written over."""
_TICK = 0.5
_FIRST = "starting its ranks; the first of a command import torch and megatron-core"
_CLEARED = "\r\x1b[2K"


class Progress:
    """Says what is waited for, how much is done and how long it has taken, from a thread of its own.

    `write` takes a text; `in_place` says that it goes to a terminal that a line can be written over in. Called from the threads
    that run cases and from the one that waits.
    """

    def __init__(self, write: Callable[[str], object], in_place: bool, quiet: bool = False) -> None:
        self._write, self._in_place, self._quiet = write, in_place, quiet
        self._lock = threading.RLock()
        self._start = self._last = time.monotonic()
        self._text = ""
        self._shown = False
        self._watched: Case | None = None
        self._steps: dict[Case, str] = {}
        self._done = self._all = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def of(self, cases: int) -> None:
        """So many cases are to be done."""
        self._all = cases

    def another_done(self) -> None:
        """One of them is."""
        self._done += 1

    @classmethod
    def on(cls, stream: TextIO, quiet: bool = False) -> Progress:
        """One that writes to a stream; written over if it is a terminal that can do so. A `quiet` one says nothing."""

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        return cls(write, stream.isatty() and os.environ.get("TERM") != "dumb", quiet)

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Within it this is what is going on."""
        self._say(text)
        try:
            yield
        finally:
            self._say("")

    @contextmanager
    def watching(self, case: Case) -> Iterator[None]:
        """Within it this case's steps are what is going on."""
        with self._lock:
            self._watched = case
            self._say(self._of(case))
        try:
            yield
        finally:
            with self._lock:
                self._watched = None
                self._say("")

    def show(self, case: Case, step: str) -> None:
        """The case is now at `step`."""
        with self._lock:
            self._steps[case] = step
            if case == self._watched:
                self._say(self._of(case))

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it something else is written, and the line is not there."""
        with self._lock:
            self._clear()
            yield
            self._last = time.monotonic()

    def close(self) -> None:
        """Take the line away, for good."""
        self._ended.set()
        with self._lock:
            self._clear()
            self._text = ""

    def _of(self, case: Case) -> str:
        return f"{case.preset} / {case.label}: {self._steps.get(case, _FIRST)}"

    def _say(self, text: str) -> None:
        with self._lock:
            self._text = "" if self._quiet else text
            if self._text and not self._ended.is_set() and self._thread.ident is None:
                self._thread.start()
            if self._in_place:
                self._draw()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            # Whoever read the output may have gone: the thread that prints the checks will see it, too.
            with self._lock, suppress(OSError, ValueError):
                if self._in_place or time.monotonic() - self._last >= SILENCE:
                    self._draw()

    def _draw(self) -> None:
        if not self._text or self._ended.is_set():
            self._clear()
            return
        done = f"{self._done} of {many(self._all, 'layout')} done, " if self._all > 1 else ""
        line = f"{done}{time.monotonic() - self._start:.0f} s: {self._text} ..."
        # A line that a terminal breaks in two could not be taken away as one.
        fits = line[: shutil.get_terminal_size().columns - 1]
        self._write(f"{_CLEARED}{fits}" if self._in_place else f"{line}\n")
        self._shown, self._last = self._in_place, time.monotonic()

    def _clear(self) -> None:
        if self._shown:
            self._write(_CLEARED)
            self._shown = False
