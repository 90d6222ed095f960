"""What is running now: one line that is written over in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from validation.case.case import Case


class ProgressLine:
    """Shows what the case that is waited for is doing. Called from the threads that run cases and from the one that waits."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._watched: Case | None = None
        self._steps: dict[Case, str] = {}
        self._shown = False

    @contextmanager
    def watching(self, case: Case) -> Iterator[None]:
        """Within it this case's steps are shown, from where it is now."""
        with self._lock:
            self._watched = case
            if case in self._steps:
                self._write(case)
        try:
            yield
        finally:
            with self._lock:
                self._watched = None
                self._clear()

    def show(self, case: Case, step: str) -> None:
        """The case is now at `step`."""
        with self._lock:
            self._steps[case] = step
            if case == self._watched:
                self._write(case)

    def _write(self, case: Case) -> None:
        writer: Any = self._config.get_terminal_writer()
        line = f"{case.preset} / {case.arrangement}: {self._steps[case]} ..."
        if writer.hasmarkup:
            writer.write(f"\r\x1b[2K{line}", flush=True)
            self._shown = True
        else:
            writer.line(line)

    def _clear(self) -> None:
        """Take the line away before something is printed in its place."""
        if self._shown:
            self._config.get_terminal_writer().write("\r\x1b[2K", flush=True)
            self._shown = False
