"""The process that computes references, kept from one command of tests.checks.commands to the next.

It imports torch and transformers, which takes a core five seconds. A command ends it; here it only lets go of what it has read
and written. `python -m tests.checks.kept` is that process: it does as validation.run.refer, and a line with a path lets go.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from validation.run.references import ReferenceProcess

_OTHERWISE = ("PLUMBLINE_CACHE", "PLUMBLINE_STEPS", "PLUMBLINE_COMPILES", "PLUMBLINE_TRANSPORT", "PYTEST_")
"""Beginnings of variables in which commands differ. No reference depends on them: it is asked for together with its cache."""
_SECONDS = 60.0


class KeptProcess(ReferenceProcess):
    """One that outlives `close`, unless it is at work or the next command has another environment."""

    _module = "tests.checks.kept"
    _forks = False

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[str, str] = {}
        # The kernel ends a process with the thread that has started it, and a command's threads end with the command.
        self._lasting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept")

    def warm_up(self) -> subprocess.Popen[str]:
        """As of its class."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERWISE)}
        environment["folder"], environment["path"] = os.getcwd(), os.pathsep.join(sys.path)
        if environment != self._environment:
            self._kill()
            self._environment = environment
        return self._lasting.submit(super().warm_up).result()

    def close(self) -> None:
        """Have it let go of its locks, or end it."""
        if not self._one_at_a_time.acquire(blocking=False):
            super().close()
            return
        try:
            self._begun.clear()
            if not self._lets_go():
                super().close()
        finally:
            self._one_at_a_time.release()

    def end(self) -> None:
        """End it."""
        super().close()

    def _lets_go(self) -> bool:
        """Whether it has, and so has ended whatever it was asked for."""
        process, end = self._process, time.monotonic() + _SECONDS
        if process is None or process.stdin is None:
            return True
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
            word = Path(folder) / "let go"
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            while process.poll() is None and time.monotonic() < end:
                if word.exists():
                    return True
                time.sleep(0.001)
        return False


def _requests(lines: Iterable[str]) -> Iterator[str]:
    from validation.cache import locks

    for line in lines:
        if line.startswith("/"):
            locks.let_all_go()
            Path(line.strip()).touch()
        else:
            yield line


class _Requests:
    """What the process reads as its standard input."""

    def __init__(self, stream: TextIO) -> None:
        self._lines = _requests(stream)

    def __iter__(self) -> Iterator[str]:
        return self._lines


if __name__ == "__main__":
    from validation.run import refer

    sys.stdin = _Requests(sys.stdin)
    refer.main()
